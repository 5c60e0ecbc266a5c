//! Conversation threads on every store: one test body for memory, Redis, Redis Cluster and a key prefix.

mod append;
mod context;
mod expiry;
mod failover;
mod fork;
mod keys;
mod lifecycle;
mod limits;
mod list;
mod model;
mod races;
mod read;
mod renewal;
mod shapes;
mod transcripts;
mod truncate;
mod update;
mod validation;
mod watch;
