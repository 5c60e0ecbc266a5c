//! What the integration tests stand on: real servers, a proxy that misbehaves on order, and waiting without sleeping.

pub(crate) mod behind_proxy;
pub(crate) mod breakers;
pub(crate) mod chaos_proxy;
mod chaos_pump;
pub(crate) mod deployment;
pub(crate) mod eventually;
pub(crate) mod failover;
pub(crate) mod fusewire;
pub(crate) mod health;
pub(crate) mod manual_clock;
pub(crate) mod port;
pub(crate) mod process;
pub(crate) mod raw;
pub(crate) mod raw_call;
pub(crate) mod redis_options;
pub(crate) mod redis_server;
pub(crate) mod status;
pub(crate) mod thread_watch;
pub(crate) mod threads;
pub(crate) mod tls;
pub(crate) mod watch;
