//! Devices and addresses.

use super::Home;
use crate::build::*;
use herald::{
    dispatcher::{
        devices::{Device, DeviceKind},
        store::{Entered, Release, SharedStore},
    },
    ids::UserId,
    limits,
};
use std::collections::BTreeSet;

pub async fn a_device_is_entered_replaced_and_removed_by_its_id(home: &impl Home) {
    let (store, ada) = (home.open(), user("ada"));
    let (work, home_address) = (
        email(&ada, "work", "ada@example.com"),
        email(&ada, "home", "ada@example.org"),
    );
    for device in [&work, &home_address] {
        let entered = store.put_device(device.clone()).await;
        assert_eq!(entered, Ok(Entered::Created));
    }
    let moved = email(&ada, "work", "lovelace@example.com");
    assert_eq!(store.put_device(moved.clone()).await, Ok(Entered::Replaced));
    let devices = store.devices(&ada).await;
    assert_eq!(devices, Ok(vec![home_address.clone(), moved]));
    assert_eq!(store.remove_device(&ada, &work.id).await, Ok(true));
    assert_eq!(store.remove_device(&ada, &work.id).await, Ok(false));
    assert_eq!(store.devices(&ada).await, Ok(vec![home_address]));
}

pub async fn devices_of_a_user_are_bounded_and_those_of_others_are_not_seen(home: &impl Home) {
    let (store, ada, bob) = (home.open(), user("ada"), user("bob"));
    let laptop = browser(&ada, "laptop", "https://push.example.com/1");
    assert_eq!(store.put_device(laptop.clone()).await, Ok(Entered::Created));
    for n in 1..limits::DEVICES {
        let device = email(&ada, &n.to_string(), "ada@example.com");
        assert_eq!(store.put_device(device).await, Ok(Entered::Created));
    }
    let one_more = email(&ada, "more", "ada@example.com");
    assert_eq!(store.put_device(one_more).await, Ok(Entered::Full));
    let known = email(&ada, "1", "new@example.com");
    assert_eq!(store.put_device(known).await, Ok(Entered::Replaced));
    let same_browser = browser(&ada, "browser", &laptop.address);
    assert_eq!(store.put_device(same_browser).await, Ok(Entered::Created));
    assert_eq!(store.devices(&ada).await.unwrap().len(), limits::DEVICES);

    assert_eq!(store.devices(&bob).await, Ok(vec![]));
    let id = "1".parse().unwrap();
    assert_eq!(store.remove_device(&bob, &id).await, Ok(false));
    let of_bob = email(&bob, "1", "bob@example.com");
    assert_eq!(store.put_device(of_bob).await, Ok(Entered::Created));
}

pub async fn an_address_that_is_of_one_user_at_a_time_is_taken_from_whoever_had_it(
    home: &impl Home,
) {
    let (store, ada, bob) = (home.open(), user("ada"), user("bob"));
    let family = "family@example.com";
    let shared = "https://push.example.com/1";
    for device in [
        email(&ada, "mail", family),
        browser(&ada, "laptop", shared),
        email(&bob, "mail", family),
        browser(&bob, "laptop", shared),
    ] {
        assert_eq!(store.put_device(device).await, Ok(Entered::Created));
    }
    let of_ada = store.devices(&ada).await;
    assert_eq!(of_ada, Ok(vec![email(&ada, "mail", family)]));
    assert_eq!(store.devices(&bob).await.unwrap().len(), 2);
    // Under another id of the same user too.
    store
        .put_device(browser(&bob, "new", shared))
        .await
        .unwrap();
    let ids = store.devices(&bob).await.unwrap();
    let ids: Vec<&str> = ids.iter().map(|device| device.id.as_str()).collect();
    assert_eq!(ids, ["mail", "new"]);
}

pub async fn a_device_that_was_entered_anew_is_not_removed_as_gone(home: &impl Home) {
    let (store, ada) = (home.open(), user("ada"));
    let read = browser(&ada, "laptop", "https://push.example.com/1");
    let mut anew = read.clone();
    anew.updated_ms += 1;
    store.put_device(anew.clone()).await.unwrap();
    assert_eq!(store.remove_gone(&read).await, Ok(false));
    assert_eq!(store.remove_gone(&anew).await, Ok(true));
    assert_eq!(store.devices(&ada).await, Ok(vec![]));
}

fn quarantined(device: &Device, at_ms: u64) -> Device {
    Device {
        quarantined_ms: Some(at_ms),
        ..device.clone()
    }
}

/// All pages of three.
async fn in_quarantine(store: &SharedStore, kind: DeviceKind) -> Vec<Device> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = store.quarantined(kind, after.as_ref(), 3).await.unwrap();
        assert!(page.devices.len() <= 3);
        found.extend(page.devices);
        after = page.next;
        if after.is_none() {
            return found;
        }
    }
}

pub async fn a_device_in_quarantine_stays_entered_until_it_is_let_out(home: &impl Home) {
    let (store, ada) = (home.open(), user("ada"));
    let kind = DeviceKind::WebPush;
    let (one, other) = (
        browser(&ada, "1", "https://push.example.com/1"),
        browser(&ada, "2", "https://push.example.com/2"),
    );
    for device in [&one, &other] {
        store.put_device(device.clone()).await.unwrap();
    }
    assert_eq!(store.quarantine(&one, 7).await, Ok(true));
    assert_eq!(store.quarantine(&one, 9).await, Ok(false), "it is there");
    assert_eq!(store.quarantine(&other, 8).await, Ok(true));
    drop(store);
    let store = home.open();
    let (one_in, other_in) = (quarantined(&one, 7), quarantined(&other, 8));
    let both = vec![one_in.clone(), other_in.clone()];
    assert_eq!(store.devices(&ada).await, Ok(both.clone()));
    assert_eq!(in_quarantine(&store, kind).await, both);

    let earlier = quarantined(&one, 6);
    for release in [Release::Restored, Release::Removed] {
        assert_eq!(store.release(&one, release).await, Ok(false));
        assert_eq!(store.release(&earlier, release).await, Ok(false));
    }
    assert_eq!(store.release(&one_in, Release::Restored).await, Ok(true));
    assert_eq!(store.release(&one_in, Release::Restored).await, Ok(false));
    assert_eq!(store.release(&one_in, Release::Removed).await, Ok(false));
    assert_eq!(store.release(&other_in, Release::Removed).await, Ok(true));
    assert_eq!(store.devices(&ada).await, Ok(vec![one.clone()]));
    assert_eq!(in_quarantine(&store, kind).await, []);

    // Its address is free, and who was let out may be put there again.
    let of_bob = browser(&user("bob"), "1", &other.address);
    assert_eq!(store.put_device(of_bob).await, Ok(Entered::Created));
    assert_eq!(store.quarantine(&one, 10).await, Ok(true));
    assert_eq!(in_quarantine(&store, kind).await, [quarantined(&one, 10)]);
}

pub async fn a_device_that_is_entered_anew_leaves_quarantine_and_is_in_nobodys_way(
    home: &impl Home,
) {
    let (store, ada, bob) = (home.open(), user("ada"), user("bob"));
    let read = browser(&ada, "1", "https://push.example.com/1");
    let mut anew = read.clone();
    anew.updated_ms += 1;
    store.put_device(anew.clone()).await.unwrap();
    assert_eq!(store.quarantine(&read, 7).await, Ok(false));
    assert_eq!(store.quarantine(&anew, 7).await, Ok(true));
    let mut later = anew.clone();
    later.updated_ms += 1;
    assert_eq!(store.put_device(later.clone()).await, Ok(Entered::Replaced));
    assert_eq!(store.devices(&ada).await, Ok(vec![later.clone()]));
    assert_eq!(in_quarantine(&store, DeviceKind::WebPush).await, []);
    let of_before = quarantined(&anew, 7);
    let released = store.release(&of_before, Release::Removed).await;
    assert_eq!(released, Ok(false));

    // Another user's browser by now.
    store.quarantine(&later, 8).await.unwrap();
    let of_bob = browser(&bob, "1", &later.address);
    assert_eq!(store.put_device(of_bob).await, Ok(Entered::Created));
    assert_eq!(store.devices(&ada).await, Ok(vec![]));
    assert_eq!(in_quarantine(&store, DeviceKind::WebPush).await, []);
}

pub async fn devices_in_quarantine_are_listed_by_kind_and_page_by_page(home: &impl Home) {
    let store = home.open();
    let users: Vec<UserId> = (0..10).map(|n| user(&format!("user {n}"))).collect();
    for (n, user) in users.iter().enumerate() {
        let fcm = Device {
            kind: DeviceKind::Fcm,
            address: format!("token {n}"),
            ..browser(user, "app", "")
        };
        for device in [
            browser(user, "1", &format!("https://push.example.com/{n}/1")),
            browser(user, "2", &format!("https://push.example.com/{n}/2")),
            fcm,
        ] {
            store.put_device(device.clone()).await.unwrap();
            if n < 8 {
                assert_eq!(store.quarantine(&device, 7).await, Ok(true));
            }
        }
    }
    for (kind, ids) in [
        (DeviceKind::WebPush, &["1", "2"][..]),
        (DeviceKind::Fcm, &["app"]),
        (DeviceKind::Apns, &[]),
    ] {
        let found = in_quarantine(&store, kind).await;
        let named = found
            .iter()
            .map(|device| (device.user.clone(), device.id.to_string()));
        let expected = users[..8].iter().flat_map(|user| {
            let of_user = ids.iter().map(|id| (user.clone(), (*id).to_owned()));
            of_user.collect::<Vec<_>>()
        });
        assert_eq!(found.len(), 8 * ids.len());
        assert_eq!(
            named.collect::<BTreeSet<_>>(),
            expected.collect::<BTreeSet<_>>()
        );
    }
}
