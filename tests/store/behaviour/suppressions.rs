//! Addresses that are not sent to.

use super::Home;
use herald::dispatcher::suppression::{SuppressedFor, Suppression};
use std::collections::BTreeSet;

fn bounced(address: &str, at_ms: u64) -> Suppression {
    Suppression::new(address, SuppressedFor::HardBounce, "550 5.1.1", at_ms)
}

pub async fn an_address_is_suppressed_until_it_is_removed_and_all_of_them_are_listed_once(
    home: &impl Home,
) {
    let store = home.open();
    let names: Vec<String> = (0..7).map(|n| format!("user{n}@example.com")).collect();
    let all: Vec<Suppression> = names.iter().map(|name| bounced(name, 5)).collect();
    store.suppress(all).await.unwrap();
    let last = Suppression::new("user3@Example.com", SuppressedFor::Complaint, "abuse", 9);
    store.suppress(vec![last.clone()]).await.unwrap();
    store.suppress(Vec::new()).await.unwrap();
    drop(store);
    let store = home.open();
    let asked = [&names[3], &names[0]].map(Clone::clone);
    let asked = [asked.to_vec(), vec!["nobody@example.com".into()]].concat();
    let found = store.suppressed(&asked).await.unwrap();
    assert_eq!(found, [Some(last), Some(bounced(&names[0], 5)), None]);

    let (mut listed, mut pages) = (Vec::new(), 0);
    loop {
        let after = listed.last().map(|one: &Suppression| one.address.clone());
        let page = store.suppressions(after.as_deref(), 3).await.unwrap();
        assert!(page.len() <= 3);
        if page.is_empty() {
            break;
        }
        pages += 1;
        listed.extend(page);
    }
    assert_eq!((pages, listed.len()), (3, 7));
    let listed: BTreeSet<String> = listed.into_iter().map(|one| one.address).collect();
    assert_eq!(listed, names.iter().cloned().collect());

    assert_eq!(store.unsuppress(&names[0]).await, Ok(true));
    assert_eq!(store.unsuppress(&names[0]).await, Ok(false));
    assert_eq!(store.suppressed(&names[..1]).await, Ok(vec![None]));
}
