//! Circuit breakers over gRPC: one test body for memory, Redis, Redis Cluster, a key prefix, and two services on one
//! Redis that are asked in turn.

mod closed;
mod open;
mod trial;
