//! Fusewire keeps what a fleet of LLM workers shares: what was said in each conversation, and which models may be
//! called now. It is one sidecar process with a gRPC interface; the state lives in Redis, so that many instances share
//! it, and in this process's memory where Redis is switched off or out of reach.
//!
//! # Map
//!
//! ```text
//! main                 arguments, settings, log, signals
//! service              puts the parts together and tells the start in the log
//! settings             typed settings from defaults, file, .env, environment and flags; the only reader of them
//! grpc                 the server: limits, keepalive, health, reflection, drain; requests parsed once, answers told
//! outage               everything about an outage of Redis: outage::route chooses who answers a call, Redis or memory;
//!                      outage::reachability knows whether Redis can be asked; outage::copies answers meanwhile;
//!                      outage::queue keeps accepted writes, outage::file keeps them on disk, outage::merge replays them
//! threads              the vocabulary, the rules, and what a store must offer; threads::context chooses what a
//!                      model's window takes; threads::watch tells watchers what happened since, threads::bells wakes
//!                      them
//! breakers             circuit breakers: breakers::policy is the state machine, pure; breakers::store the few mechanisms
//!                      that a store offers; breakers::engine drives the one over the other; breakers::policies gives
//!                      each model its settings; breakers::keepers is what this process knows of each breaker, and tells
//!                      watchers of changes
//! redis                threads and breakers in Redis: a pool of shared connections, one Lua script an operation; and one
//!                      subscriber, redis::Notifications
//! memory               both in memory: MemoryThreads and MemoryBreakers as the only truth
//! doorbell             whether changes in Redis are noticed at once
//! diagnostics          what this process tells of itself
//! error, clock, call   what went wrong, what time it is, and what travels with every request
//! shutdown, telemetry  the token and tracker that end everything; the log
//! ```
//!
//! Who may import whom is a rule that a test keeps: `service` and `main` import everything; `grpc`, `redis` and `memory`
//! import `threads` and `breakers` and never each other (`redis` its part of `settings`, too); `fallback` imports all of
//! these but `grpc`;
//! `journal` imports `threads`, `error`, `clock` and `shutdown`; `threads` imports only `error`, `clock`, `call` and
//! `doorbell`, `breakers` these and `shutdown`; `settings` imports `breakers::policies` alone.
//! Generated types appear only inside `grpc`, the redis crate only inside `redis`, protobuf only in `grpc` and `journal`.
//!
//! # The path of one request
//!
//! An `AppendMessages` arrives at `grpc`. The layer around every call notes its deadline, and refuses the call if the
//! process ends or has too many. `grpc::requests` parses the message into [`threads::Append`]; one answer names every
//! violation of a limit. [`outage::Fallback`] asks Redis under [`outage::Reachability::guard`]. That is one script: it
//! looks up each message id, compares the etag, checks the limits, and only then appends the messages, trims, and gives
//! all keys of the thread one expiry. Memory learns from the answer, and the caller is told that Redis answered. If Redis
//! had fallen silent, a probe would have found that within 200 ms. Memory would then have accepted the append as
//! provisional and said so, after the journal file had it, where there is one.
//!
//! # What an outage leaves
//!
//! What memory accepts for one thread is a *pending batch*: the messages in order, with the thread as it was before.
//! Memory answers for such a thread, and only for such a thread, until its batch is merged. So no caller misses what was
//! acknowledged to it, and later appends join the end of the batch. When Redis answers again,
//! [`outage::Fallback::reconcile`] replays each batch by the script that appends. The message ids make a second replay
//! harmless. A write that was given up at a timeout is replayed only when its first attempt cannot happen any more. Each
//! step comes to one of [`threads::replay::Replayed`], and the merge decides by that alone: it creates a thread that is
//! gone from the copy and the batch; it drops what was accepted for a deleted thread; it leaves another owner's thread
//! alone; it appends again what a failover lost. A step that Redis refuses is parked and tried again. No write leaves a
//! batch before Redis has it, or can never have it.
//!
//! The process says how it serves ([`call::ServingMode`]): SHARED, DEGRADED while Redis is away, RECONCILING until no
//! batch waits, SHARED again.
//!
//! # How a breaker changes
//!
//! A store knows no policy and the policy no store. Each of a store's mechanisms (load, record, lease, settle, transition)
//! is one atomic step that answers with the state, the counts and the store's time, all of one moment. The engine shows
//! that to [`breakers::policy::due`]; a change that is due is offered back as a compare-and-set on (epoch, generation), so
//! of many instances that see the same exactly one makes it. What is due follows from what is stored, not from having seen
//! an event, so an instance that dies in between leaves nothing undone.
//!
//! Reports of one model that arrive while a batch of them is under way travel together in the next: a hot model costs one
//! script call a round trip, an idle one none more than without. Settings come with each step and are compared with the
//! stored revision inside of it: a step never goes by settings that are not in force.
//!
//! When Redis falls silent, [`outage::Handover`] has memory adopt each breaker as its last view describes it, under an
//! epoch of its own. When Redis is back, the trips that memory made are offered there, once, by the same compare-and-set,
//! and all else that memory decided is forgotten.
//!
//! # How a change is noticed
//!
//! A keyspace notification is a doorbell and nothing more: it says where to look, may be lost, and may ring for nothing.
//! [`redis::Notifications`] hears it, on one connection of its own, and rings itself every second on the same connection:
//! what it does not hear of itself it would not hear of others, and [`doorbell::Doorbell`] then says that Redis has to be
//! asked again and again instead. Whatever rings is read back, from the log of a breaker or of a thread, after the place
//! that was seen last; so a lost ring costs time, and a gap in a log is told as a resync.
//!
//! What this process knows of a breaker is one struct, its keeper: the settings in force, the last view, reports that wait,
//! the deadline, and the reading of a breaker that is watched or that admission asks for. A breaker is *fresh* until
//! something says that it may have changed; then it is *stale*, and one read at a time replaces the reading. Whoever reads
//! it also sees what only a reader can see, that somebody changed the hash by hand or that a failover lost changes, and
//! makes that a change like any other. A fresh reading answers `Acquire` without asking Redis while the doorbell is
//! trusted. Watchers are told from the keeper, each from its own place in the history: nothing is queued for them but
//! names. A watch of a thread reads for itself ([`threads::watch`]), woken by the bell of its thread, by the time at which
//! that expires, and by a slow tick.
//!
//! When its deadline passes, a breaker is *due*: time alone may bring a change (the end of an open time with
//! `automatic_half_open`, of a trial, of an override). Every instance that knows of the deadline offers that change, and it
//! happens once, as every change does.
//!
//! # Invariants
//!
//! 1. Domain code (`threads`, `breakers::policy`) does no IO and never asks the time.
//! 2. A breaker's generation only grows within an epoch, by one with each change, and each is in its log; no watcher is told
//!    n after a later one, and what it is not told is told to be missing.
//! 3. No caller waits for Redis longer than its deadline or the configured bound; dialling is in no caller's path while
//!    Redis is up.
//! 4. Every answer says where it came from ([`call::Source`]).
//! 5. A write is all or nothing, and safe to repeat: by message ids, by request id, by
//!    lease, or because it only renews. A report without lease is the exception, as the contract says.
//! 6. Nothing is decided by comparing clocks of different machines: times come from Redis whenever it answered.
//! 7. Every task runs on the tracker of [`shutdown::Shutdown`]; the process ends within the drain deadline whatever
//!    clients do.
//! 8. A lost notification costs time, never correctness; what is answered without asking Redis is at most 2 s old
//!    ([`doorbell::TRUSTED_FOR`]).
//! 9. What memory cannot answer honestly is an error that says so, never "not found" and never an empty page.
//! 10. An acknowledged write is in Redis, or in a pending batch. Batches are bounded: more writes are refused, none is dropped.

pub mod breakers;
pub mod call;
pub mod clock;
pub mod diagnostics;
pub mod doorbell;
pub mod error;
pub mod grpc;
pub mod memory;
pub mod outage;
pub mod redis;
pub mod service;
pub mod settings;
pub mod shutdown;
pub mod telemetry;
pub mod threads;
