//! Trial permits: their budget, their ends, and what a settlement is told.

use super::*;
use crate::breakers::{
    Disposition::{Applied, Neutral, Stale},
    ExpiredPermit,
    store::LeaseRequest::{Find, Grant, Renew},
};

async fn trial(permits: u32, expired_permit: ExpiredPermit) -> (Rig, Position) {
    let settings = BreakerSettings { half_open_permits: permits, expired_permit, ..windowed(None) };
    let rig = Rig::new(settings);
    let position = rig.go(State::HalfOpen).await;
    (rig, position)
}

#[tokio::test]
async fn leases_are_only_given_half_open_while_the_breaker_decides() {
    let rig = Rig::new(BreakerSettings::default());
    assert_eq!(rig.grant("a", 10).await, LeaseResult::NotLeasing);
    assert!(rig.store.is_empty());
    let position = rig.go(State::HalfOpen).await;
    let position = rig
        .change(&overridden(&position, State::HalfOpen, Mode::Disabled, Some(5)))
        .await
        .view
        .snapshot
        .position;
    assert_eq!(rig.grant("a", 10).await, LeaseResult::NotLeasing);
    assert_eq!(rig.settle(&settlement(&position, "a", Outcome::Success)).await.disposition, Stale);
    assert_eq!(rig.at(5000).grant("a", 10).await, LeaseResult::Live(after(15_000)));
}

#[tokio::test]
async fn live_leases_and_results_share_the_budget() {
    let (rig, position) = trial(2, ExpiredPermit::Release).await;
    assert_eq!(rig.grant("a", 10).await, LeaseResult::Live(after(10_000)));
    assert_eq!(rig.at(1000).grant("a", 99).await, LeaseResult::Live(after(10_000)));
    assert_eq!(rig.grant("b", 10).await, LeaseResult::Live(after(11_000)));
    assert_eq!(rig.grant("c", 10).await, LeaseResult::Full);
    assert_eq!(rig.view().await.totals.leases, 2);
    let settled = rig.settle(&settlement(&position, "b", Outcome::Timeout)).await;
    assert_eq!((settled.disposition, settled.view.totals.leases), (Applied, 1));
    assert_eq!(settled.view.totals.counts, counts(1, 1, 0, 1));
    assert_eq!(rig.grant("c", 10).await, LeaseResult::Full);
    assert_eq!(rig.settle(&settlement(&position, "a", Outcome::Cancelled)).await.disposition, Neutral);
    assert_eq!(rig.grant("c", 10).await, LeaseResult::Live(after(11_000)));
    assert_eq!(rig.grant("a", 10).await, LeaseResult::Settled);
}

#[tokio::test]
async fn finding_and_renewing_give_nothing_new() {
    let (rig, position) = trial(1, ExpiredPermit::Release).await;
    for request in [Find, Renew(&position)] {
        assert_eq!(rig.ask(request, "a", 10).await.result, LeaseResult::Absent);
    }
    rig.grant("a", 10).await;
    assert_eq!(rig.at(9999).ask(Find, "a", 1).await.result, LeaseResult::Live(after(10_000)));
    // The permit of an earlier trial prolongs no lease of this one, even by the same id.
    let before = Position { generation: 0, ..position.clone() };
    assert_eq!(rig.ask(Renew(&before), "a", 5).await.result, LeaseResult::Absent);
    assert_eq!(rig.ask(Renew(&position), "a", 5).await.result, LeaseResult::Live(after(14_999)));
    assert_eq!(rig.at(14_998).view().await.totals.leases, 1);
    assert_eq!(rig.at(14_999).view().await.totals.leases, 0);
    assert_eq!(rig.ask(Renew(&position), "a", 5).await.result, LeaseResult::Absent);
}

#[tokio::test]
async fn a_lease_that_ended_frees_its_slot_and_its_id() {
    let (rig, position) = trial(1, ExpiredPermit::Release).await;
    rig.grant("a", 10).await;
    assert_eq!(rig.at(9999).grant("b", 10).await, LeaseResult::Full);
    let settled = rig.at(10_000).settle(&settlement(&position, "a", Outcome::Failure)).await;
    assert_eq!((settled.disposition, settled.view.totals), (Stale, Totals::default()));
    assert_eq!(rig.ask(Grant, "a", 10).await.result, LeaseResult::Live(after(20_000)));
}

#[tokio::test]
async fn a_lease_that_ended_may_count_as_a_failure() {
    let (rig, position) = trial(3, ExpiredPermit::Failure).await;
    rig.grant("a", 10).await;
    rig.grant("b", 10).await;
    assert_eq!(rig.at(10_000).counts().await, Counts::default());
    let settled = rig.settle(&settlement(&position, "a", Outcome::Success)).await;
    assert_eq!((settled.disposition, settled.view.totals.counts), (Stale, counts(2, 2, 0, 2)));
    let totals = settled.view.totals;
    assert_eq!((totals.last_failure, totals.reporters), (Some(after(10_000)), 0));
    assert_eq!(rig.grant("c", 10).await, LeaseResult::Live(after(20_000)));
    assert_eq!(rig.grant("d", 10).await, LeaseResult::Full);
}

#[tokio::test]
async fn the_same_settlement_again_is_the_same_until_the_state_ends() {
    let (rig, position) = trial(2, ExpiredPermit::Release).await;
    rig.grant("a", 10).await;
    let mut failed = settlement(&position, "a", Outcome::RateLimited);
    failed.pause = Some(pause(60, Outcome::RateLimited));
    let first = rig.settle(&failed).await;
    assert_eq!(first.view.totals.pause.map(|pause| pause.until), Some(after(60_000)));
    assert_eq!(rig.settle(&failed).await, first);
    assert_eq!(rig.settle(&settlement(&position, "a", Outcome::Success)).await, first);
    assert_eq!(rig.settle(&settlement(&position, "z", Outcome::Success)).await.disposition, Stale);
    let again = rig.go(State::HalfOpen).await;
    for place in [&position, &again] {
        assert_eq!(rig.settle(&settlement(place, "a", Outcome::Failure)).await.disposition, Stale);
    }
    assert_eq!(rig.grant("a", 10).await, LeaseResult::Live(after(10_000)));
}

#[tokio::test]
async fn only_so_many_settled_leases_are_remembered() {
    let (rig, position) = trial(1, ExpiredPermit::Release).await;
    for id in 0..=10_000 {
        rig.grant(&id.to_string(), 10).await;
        rig.settle(&settlement(&position, &id.to_string(), Outcome::Cancelled)).await;
    }
    assert_eq!(rig.grant("1", 10).await, LeaseResult::Settled);
    assert_eq!(rig.grant("0", 10).await, LeaseResult::Live(after(10_000)));
}

#[tokio::test]
async fn a_clock_that_goes_back_takes_leases_along() {
    let (rig, _) = trial(2, ExpiredPermit::Release).await;
    rig.grant("a", 10).await;
    rig.at(8000).grant("b", 4).await;
    assert_eq!(rig.at(-60_000).view().await.totals.leases, 2);
    assert_eq!(rig.ask(Find, "a", 1).await.result, LeaseResult::Live(after(-58_000)));
    assert_eq!(rig.at(-58_000).view().await.totals.leases, 1);
    assert_eq!(rig.ask(Find, "a", 1).await.result, LeaseResult::Absent);
    assert_eq!(rig.ask(Find, "b", 1).await.result, LeaseResult::Live(after(-56_000)));
}
