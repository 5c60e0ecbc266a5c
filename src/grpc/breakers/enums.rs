//! The enums of breakers on the wire, both ways.

use crate::{
    breakers::{
        Disposition, ExpiredPermit, Mode, Outcome, Reason, RejectionReason, State, operations::Admission,
    },
    error::Violation,
    grpc::{
        check::{Check, Path},
        proto,
    },
};

/// An enum of the domain that stands in the contract, too.
pub(super) trait Wire: Sized {
    /// Writes a value.
    fn write(self) -> i32;

    /// Reads a value; none if it is not set.
    fn read(raw: i32) -> Result<Option<Self>, Violation>;
}

macro_rules! wire {
    ($ours:ident as $theirs:ident { $($variant:ident),+ $(,)? }) => {
        impl Wire for $ours {
            fn write(self) -> i32 {
                let value = match self { $(Self::$variant => proto::$theirs::$variant),+ };
                value.into()
            }

            fn read(raw: i32) -> Result<Option<Self>, Violation> {
                match proto::$theirs::try_from(raw) {
                    Ok(proto::$theirs::Unspecified) => Ok(None),
                    $(Ok(proto::$theirs::$variant) => Ok(Some(Self::$variant)),)+
                    Err(_) => Err(Violation::new("", "is no value that this server knows")),
                }
            }
        }
    };
}

wire!(State as State { Closed, Open, HalfOpen });
wire!(Admission as Admission { Cached, Shared });
wire!(Mode as Mode { Automatic, ForcedOpen, Disabled, MetricsOnly });
wire!(Outcome as Outcome {
    Success,
    Failure,
    Timeout,
    RateLimited,
    Overloaded,
    QuotaExhausted,
    Unauthenticated,
    Cancelled,
    InvalidRequest,
});
wire!(Reason as TransitionReason {
    ConsecutiveFailures,
    FailureRate,
    SlowRate,
    RetryAfter,
    OpenElapsed,
    TrialPassed,
    TrialFailed,
    TrialTimedOut,
    Tripped,
    Reset,
    Override,
    External,
    Reconciled,
    Extended,
});
wire!(Disposition as Disposition { Applied, Neutral, Stale });
wire!(RejectionReason as RejectionReason { Open, NoPermitLeft, ForcedOpen });
wire!(ExpiredPermit as ExpiredPermit { Release, Failure });

/// Reads a value that must be set.
pub(super) fn required<T: Wire>(check: &mut Check, path: Path<'_>, raw: i32) -> Option<T> {
    let value = check.take(path, T::read(raw))?;
    check.require(path, value.is_some(), "is required");
    value
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use super::*;

    /// Checks that these are all values of an enum of the contract, and that each comes back as it went.
    fn assert_whole<T: Wire + Copy + PartialEq + Debug>(all: &[T]) {
        for (index, value) in (1..).zip(all) {
            assert_eq!(value.write(), index);
            assert_eq!(T::read(index).unwrap(), Some(*value));
        }
        assert_eq!(T::read(0).unwrap(), None);
        let above = i32::try_from(all.len()).unwrap() + 1;
        for unknown in [-1, above, i32::MAX] {
            assert!(T::read(unknown).is_err(), "{unknown} after {all:?}");
        }
    }

    #[test]
    fn every_value_comes_back_as_it_went() {
        assert_whole(State::ALL);
        assert_whole(Mode::ALL);
        assert_whole(Outcome::ALL);
        assert_whole(Reason::ALL);
        assert_whole(&[Disposition::Applied, Disposition::Neutral, Disposition::Stale]);
        assert_whole(&[RejectionReason::Open, RejectionReason::NoPermitLeft, RejectionReason::ForcedOpen]);
        assert_whole(&[ExpiredPermit::Release, ExpiredPermit::Failure]);
    }

    #[test]
    fn values_are_stored_by_the_names_of_the_contract() {
        macro_rules! assert_named {
            ($($prefix:literal: $name:ident as $theirs:ident),+) => {$(
                for value in $name::ALL {
                    let theirs = proto::$theirs::try_from(value.write()).unwrap().as_str_name();
                    assert_eq!(theirs, format!(concat!($prefix, "_{}"), value));
                }
            )+};
        }
        assert_named!("STATE": State as State, "MODE": Mode as Mode, "OUTCOME": Outcome as Outcome);
        assert_named!("TRANSITION_REASON": Reason as TransitionReason);
    }
}
