//! The integration tests: the built service against real servers, one behaviour a file.

// Always so here; written out, it lets the lints' allowances for tests reach functions that are no tests.
#[cfg(test)]
#[path = "../storm/storm.rs"]
mod storm;
#[cfg(test)]
mod support;

#[cfg(test)]
mod breaker_service;
#[cfg(test)]
mod breaker_watch;
#[cfg(test)]
mod breakers;
#[cfg(test)]
mod costs;
#[cfg(test)]
mod deadlines;
#[cfg(test)]
mod diagnostics;
#[cfg(test)]
mod health;
#[cfg(test)]
mod imports;
#[cfg(test)]
mod local;
#[cfg(test)]
mod notifications;
#[cfg(test)]
mod outage;
#[cfg(test)]
mod redis_connection;
#[cfg(test)]
mod service;
#[cfg(test)]
mod settings_cli;
#[cfg(test)]
mod shutdown;
#[cfg(test)]
mod threads;
