//! The scripts, each documented above its text. A script on a thread or on a breaker begins with what all of its kind have
//! in common.

use std::sync::LazyLock;

use bb8_redis::redis::Script;

macro_rules! scripts {
    ($($name:ident = $($file:literal)+;)*) => {$(
        pub(super) static $name: LazyLock<Script> =
            LazyLock::new(|| Script::new(concat!($(include_str!(concat!("scripts/", $file))),+)));
    )*};
}

scripts! {
    APPEND = "thread.lua" "append.lua";
    READ = "thread.lua" "page.lua" "read.lua";
    FOLLOW = "thread.lua" "page.lua" "follow.lua";
    UPDATE = "thread.lua" "update.lua";
    DELETE = "thread.lua" "delete.lua";
    TRUNCATE = "thread.lua" "truncate.lua";
    FIND_MESSAGE = "thread.lua" "find_message.lua";
    REPLACE_MESSAGE = "thread.lua" "replace_message.lua";
    FORK_READ = "thread.lua" "fork_read.lua";
    FORK_WRITE = "fork_write.lua";
    FORK_FINISH = "thread.lua" "fork_finish.lua";
    CHECK = "thread.lua" "check.lua";
    REINCARNATE = "thread.lua" "reincarnate.lua";
    INDEX = "index.lua";
    REINDEX = "reindex.lua";
    LEASE = "lease.lua";

    BREAKER_LOAD = "breaker.lua" "breaker_load.lua";
    BREAKER_RECORD = "breaker.lua" "breaker_record.lua";
    BREAKER_LEASE = "breaker.lua" "breaker_trial.lua" "breaker_lease.lua";
    BREAKER_SETTLE = "breaker.lua" "breaker_trial.lua" "breaker_settle.lua";
    BREAKER_TRANSITION = "breaker.lua" "breaker_transition.lua";
    BREAKER_FOLLOW = "breaker.lua" "breaker_follow.lua";
    BREAKER_LOG = "breaker_log.lua";
    BREAKER_CONFIGURE = "breaker_configure.lua";
    BREAKER_REMOVE = "breaker_remove.lua";
    BREAKER_UNLIST = "breaker_unlist.lua";
}
