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
    for n in 0..limits::DEVICES {
        let device = email(&ada, &n.to_string(), "ada@example.com");
        assert_eq!(store.put_device(device).await, Ok(Entered::Created));
    }
    let one_more = email(&ada, "more", "ada@example.com");
    assert_eq!(store.put_device(one_more).await, Ok(Entered::Full));
    let known = email(&ada, "0", "new@example.com");
    assert_eq!(store.put_device(known).await, Ok(Entered::Replaced));
    assert_eq!(store.devices(&ada).await.unwrap().len(), limits::DEVICES);

    assert_eq!(store.devices(&bob).await, Ok(vec![]));
    let id = "0".parse().unwrap();
    assert_eq!(store.remove_device(&bob, &id).await, Ok(false));
    let of_bob = email(&bob, "0", "bob@example.com");
    assert_eq!(store.put_device(of_bob).await, Ok(Entered::Created));
}
