//! Circuit breakers: what other systems' breakers do, and what a naive model says, on every store.

mod clock;
mod conformance;
mod properties;
mod world;
