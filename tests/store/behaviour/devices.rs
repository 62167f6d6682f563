//! Devices and addresses.

use super::Home;
use crate::build::*;
use herald::{dispatcher::store::Entered, limits};

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
