//! Sums of what was spent.

use crate::subject::*;
use herald::{
    envelope::Channel,
    registry::{Spend, Spent},
};

fn spend(cost: i64, limit: Option<u64>) -> Spend {
    Spend {
        channel: Channel::Sms,
        day: 20_000,
        cost,
        limit,
    }
}

pub async fn a_days_sum_rises_to_its_limit_and_not_above(subject: Subject) {
    let registry = subject.registry(LASTING).await;
    let paid = async |cost, limit| registry.spend(&spend(cost, limit)).await.unwrap();
    let spent = |granted, total| Spent { granted, total };
    assert_eq!(paid(0, None).await, spent(true, 0));
    assert_eq!(paid(70, Some(100)).await, spent(true, 70));
    assert_eq!(paid(31, Some(100)).await, spent(false, 70));
    assert_eq!(paid(30, Some(100)).await, spent(true, 100));
    assert_eq!(paid(1, Some(100)).await, spent(false, 100));
    assert_eq!(paid(5, None).await, spent(true, 105), "without a limit");
    assert_eq!(paid(-35, None).await, spent(true, 70));
    assert_eq!(
        paid(-100, None).await,
        spent(true, 0),
        "no less than nothing"
    );
    let large = 4_000_000_000_000_000;
    assert_eq!(paid(large, None).await, spent(true, large as u64));
    assert_eq!(paid(1, None).await, spent(true, large as u64 + 1));
}

pub async fn channels_and_days_are_summed_apart(subject: Subject) {
    let registry = subject.registry(LASTING).await;
    registry.spend(&spend(7, None)).await.unwrap();
    for other in [
        Spend {
            channel: Channel::Email,
            ..spend(0, None)
        },
        Spend {
            day: 20_001,
            ..spend(0, None)
        },
    ] {
        assert_eq!(registry.spend(&other).await.unwrap().total, 0);
    }
    assert_eq!(registry.spend(&spend(0, None)).await.unwrap().total, 7);
}
