//! Conversation threads on every store: one test body for memory, Redis, Redis Cluster and a key prefix.

mod append;
mod context;
mod expiry;
mod fork;
mod keys;
mod lifecycle;
mod list;
mod races;
mod read;
mod shapes;
mod transcripts;
mod truncate;
mod update;
mod validation;
