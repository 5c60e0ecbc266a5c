//! A breaker's settings: from a request into the domain, and from the domain onto the wire.

use std::{sync::Arc, time::Duration};

use prost_types::FieldMask;

use super::enums::Wire;
use crate::{
    breakers::{
        BreakerSettings, ExpiredPermit, Window, operations::Revise, settings::table::breaker_settings,
    },
    error::Violation,
    grpc::{
        check::{Check, Path},
        convert,
        fields::masked,
        proto::{self, breaker_settings::Window as WireWindow},
    },
};

/// Where a request has its settings.
pub(super) const SETTINGS: Path<'static> = Path::Root("settings");

/// A value of a setting as the generated types hold it.
trait WireValue<T>: Sized {
    /// Reads a value; none if it is absent. Fails only where the value has no meaning at all:
    /// [`BreakerSettings::violations`] tells whether a value is within its bounds.
    fn read(self) -> Result<Option<T>, Violation>;

    /// Writes a value.
    fn write(value: T) -> Self;
}

impl WireValue<u32> for i32 {
    /// Reads a number. A negative one becomes the largest, which is out of bounds.
    fn read(self) -> Result<Option<u32>, Violation> {
        Ok(Some(u32::try_from(self).unwrap_or(u32::MAX)))
    }

    fn write(value: u32) -> Self {
        number(value)
    }
}

impl WireValue<ExpiredPermit> for i32 {
    fn read(self) -> Result<Option<ExpiredPermit>, Violation> {
        Wire::read(self)
    }

    fn write(value: ExpiredPermit) -> Self {
        value.write()
    }
}

impl WireValue<f64> for f64 {
    fn read(self) -> Result<Option<f64>, Violation> {
        Ok(Some(self))
    }

    fn write(value: f64) -> Self {
        value
    }
}

impl WireValue<bool> for bool {
    fn read(self) -> Result<Option<bool>, Violation> {
        Ok(Some(self))
    }

    fn write(value: bool) -> Self {
        value
    }
}

impl WireValue<Duration> for prost_types::Duration {
    /// Reads a duration. A negative one becomes zero, which is out of bounds.
    fn read(self) -> Result<Option<Duration>, Violation> {
        Ok(Some(convert::length(self)?.unwrap_or_default()))
    }

    fn write(value: Duration) -> Self {
        convert::duration(value)
    }
}

/// A value that the contract lets be absent where the domain has a default.
impl<T, W: WireValue<T>> WireValue<T> for Option<W> {
    fn read(self) -> Result<Option<T>, Violation> {
        self.map_or(Ok(None), W::read)
    }

    fn write(value: T) -> Self {
        Some(W::write(value))
    }
}

/// A duration that the domain lets be absent, too.
impl WireValue<Option<Duration>> for Option<prost_types::Duration> {
    fn read(self) -> Result<Option<Option<Duration>>, Violation> {
        self.map(WireValue::read).transpose()
    }

    fn write(value: Option<Duration>) -> Self {
        value.map(WireValue::write)
    }
}

macro_rules! convert_settings {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $default:expr $(, $limits:expr)?;)+) => {
        /// The names of the settings in the contract.
        const NAMES: &[&str] = &["count_window", "time_window", $(stringify!($name)),+];

        /// Sets the settings of these names to the values in the request; a setting without value becomes the default.
        fn set(names: &[&str], new: &proto::BreakerSettings, into: &mut BreakerSettings) -> Vec<Violation> {
            let mut found = Vec::new();
            let default = BreakerSettings::default();
            // The name of one kind of window leaves a window of the other kind alone.
            let is_named = |window: &Window| names.contains(&window.name());
            let kept = into.window.filter(|window| !is_named(window));
            into.window = new.window.map(read_window).filter(is_named).or(kept);
            $(if names.contains(&stringify!($name)) {
                match WireValue::<$type>::read(new.$name) {
                    Ok(value) => into.$name = value.unwrap_or(default.$name),
                    Err(fault) => found.push(Violation { field: stringify!($name).to_owned(), ..fault }),
                }
            })+
            into.replace_zeros();
            found
        }

        /// Writes settings as they are in force, also those that hold where a setting is absent.
        pub(super) fn write(settings: &BreakerSettings) -> proto::BreakerSettings {
            let settings = settings.filled_in();
            let window = settings.window.map(write_window);
            proto::BreakerSettings { window, $($name: WireValue::<$type>::write(settings.$name)),+ }
        }
    };
}
breaker_settings!(convert_settings);

fn read_window(window: WireWindow) -> Window {
    match window {
        WireWindow::CountWindow(size) => Window::Count(u32::try_from(size).unwrap_or(u32::MAX)),
        // A length that is not whole seconds becomes zero, which is out of bounds.
        WireWindow::TimeWindow(length) if length.nanos != 0 => Window::Time(0),
        WireWindow::TimeWindow(length) => Window::Time(u32::try_from(length.seconds).unwrap_or_default()),
    }
}

fn write_window(window: Window) -> WireWindow {
    match window {
        Window::Count(size) => WireWindow::CountWindow(number(size)),
        Window::Time(length) => WireWindow::TimeWindow(convert::duration(Duration::from_secs(length.into()))),
    }
}

/// Parses new settings: the mask names the settings that are replaced; without a mask all of them are.
pub(super) fn revise(check: &mut Check, new: proto::BreakerSettings, mask: Option<&FieldMask>) -> Revise {
    let names = match mask {
        Some(mask) => masked(check, mask, NAMES, Some("the fields of BreakerSettings")),
        None => NAMES.to_vec(),
    };
    let mut settings = BreakerSettings::default();
    let mut found = set(&names, &new, &mut settings);
    if mask.is_none() {
        // No setting that is in force remains, so every violation is known here.
        let others = settings.violations().into_iter();
        let others: Vec<_> = others.filter(|other| found.iter().all(|it| it.field != other.field)).collect();
        found.extend(others);
    }
    for violation in found {
        check.note(within_settings(violation));
    }
    Arc::new(move |in_force| {
        let mut settings = in_force.clone();
        let mut found = set(&names, &new, &mut settings);
        found.extend(settings.violations());
        if found.is_empty() { Ok(settings) } else { Err(found.into_iter().map(within_settings).collect()) }
    })
}

fn within_settings(violation: Violation) -> Violation {
    Violation { field: format!("{SETTINGS}.{}", violation.field), ..violation }
}

/// Writes a number that is no larger than the contract's.
pub(super) fn number(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests;
