//! The enums of breakers on the wire, both ways.

use crate::{
    breakers::{
        Disposition, ExpiredPermit, Mode, Outcome, Reason, RejectionReason, State, operations::Admission,
    },
    error::Violation,
    grpc::check::{Check, Path},
};

/// An enum of the domain that stands in the contract, too.
pub(super) trait Wire: Copy + 'static {
    /// Every value, in the order of the contract, which numbers them from 1.
    const ALL: &'static [Self];

    /// Writes a value.
    fn write(self) -> i32;

    /// Reads a value; none if it is not set.
    fn read(raw: i32) -> Result<Option<Self>, Violation> {
        let index = usize::try_from(raw).ok();
        let value = index.and_then(|index| Self::ALL.get(index.checked_sub(1)?).copied());
        if value.is_none() && raw != 0 {
            return Err(Violation::new("", "is no value that this server knows"));
        }
        Ok(value)
    }
}

macro_rules! wire {
    ($($name:ident),+) => {$(
        impl Wire for $name {
            const ALL: &'static [Self] = Self::ALL;

            fn write(self) -> i32 {
                self as i32 + 1
            }
        }
    )+};
}
wire!(State, Admission, Mode, Outcome, Reason, Disposition, RejectionReason, ExpiredPermit);

/// Reads a value that must be set.
pub(super) fn required<T: Wire>(check: &mut Check, path: Path<'_>, raw: i32) -> Option<T> {
    let value = check.take(path, T::read(raw))?;
    check.require(path, value.is_some(), "is required");
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::proto;

    /// Checks that the values are those of the contract, by number and by name, and that each comes back as it went.
    macro_rules! assert_same {
        ($($name:ident as $theirs:ident = $prefix:literal),+ $(,)?) => {$(
            for value in $name::ALL {
                let theirs = proto::$theirs::try_from(value.write()).unwrap().as_str_name();
                assert_eq!(theirs, format!(concat!($prefix, "_{}"), value));
                assert_eq!($name::read(value.write()).unwrap(), Some(*value));
            }
            let above = i32::try_from($name::ALL.len()).unwrap() + 1;
            assert!(proto::$theirs::try_from(above).is_err(), "{} has more values", stringify!($theirs));
            assert_eq!($name::read(0).unwrap(), None);
            for unknown in [i32::MIN, -1, above, i32::MAX] {
                assert!($name::read(unknown).is_err(), "{unknown}");
            }
        )+};
    }

    #[test]
    fn every_value_has_the_number_and_the_name_of_the_contract() {
        assert_same!(
            State as State = "STATE",
            Admission as Admission = "ADMISSION",
            Mode as Mode = "MODE",
            Outcome as Outcome = "OUTCOME",
            Reason as TransitionReason = "TRANSITION_REASON",
            Disposition as Disposition = "DISPOSITION",
            RejectionReason as RejectionReason = "REJECTION_REASON",
            ExpiredPermit as ExpiredPermit = "EXPIRED_PERMIT",
        );
    }
}
