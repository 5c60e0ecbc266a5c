//! The scripts, each documented above its text, and the words that they answer with.

use std::sync::LazyLock;

use bb8_redis::redis::Script;

macro_rules! on_thread {
    ($($(#[$doc:meta])* $name:ident = $($file:literal)+;)*) => {
        $($(#[$doc])*
        pub(super) static $name: LazyLock<Script> = LazyLock::new(|| {
            Script::new(concat!(
                include_str!("scripts/thread.lua"),
                $(include_str!(concat!("scripts/", $file)),)+
            ))
        });)*
    };
}

on_thread! {
    APPEND = "append.lua";
    READ = "page.lua" "read.lua";
    FOLLOW = "page.lua" "follow.lua";
    UPDATE = "update.lua";
    DELETE = "delete.lua";
    TRUNCATE = "truncate.lua";
    FIND_MESSAGE = "find_message.lua";
    REPLACE_MESSAGE = "replace_message.lua";
    FORK_READ = "fork_read.lua";
    FORK_FINISH = "fork_finish.lua";
    CHECK = "check.lua";
    REINCARNATE = "reincarnate.lua";
}

macro_rules! on_breaker {
    ($($name:ident = $($file:literal)+;)*) => {
        $(pub(super) static $name: LazyLock<Script> = LazyLock::new(|| {
            Script::new(concat!(
                include_str!("scripts/breaker.lua"),
                $(include_str!(concat!("scripts/", $file)),)+
            ))
        });)*
    };
}

on_breaker! {
    BREAKER_LOAD = "breaker_load.lua";
    BREAKER_RECORD = "breaker_record.lua";
    BREAKER_LEASE = "breaker_trial.lua" "breaker_lease.lua";
    BREAKER_SETTLE = "breaker_trial.lua" "breaker_settle.lua";
    BREAKER_TRANSITION = "breaker_transition.lua";
    BREAKER_FOLLOW = "breaker_follow.lua";
}

pub(super) static BREAKER_LOG: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/breaker_log.lua")));
pub(super) static BREAKER_CONFIGURE: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/breaker_configure.lua")));
pub(super) static BREAKER_REMOVE: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/breaker_remove.lua")));
pub(super) static BREAKER_UNLIST: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/breaker_unlist.lua")));
pub(super) static FORK_WRITE: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/fork_write.lua")));
pub(super) static INDEX: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/index.lua")));
pub(super) static REINDEX: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/reindex.lua")));
pub(super) static LEASE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/lease.lua")));
