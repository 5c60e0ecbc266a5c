//! One child process of a test: signalled by its own id, and gone when its owner is dropped.

use std::io;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use nix::sys::signal::{self, Signal};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use tokio::time::{sleep, timeout};

use super::eventually::POLL;

#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
}

impl Process {
    /// Starts `command`, in the process group of the test: Ctrl-C and nextest's timeout end it too.
    pub(crate) fn spawn(command: &mut Command) -> io::Result<Self> {
        Ok(Self { child: command.spawn()? })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns how it ended, or nothing while it runs.
    pub(crate) fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Returns how it ended, or nothing when it still runs after `deadline`.
    pub(crate) async fn wait_exit(&mut self, deadline: Duration) -> Option<ExitStatus> {
        let exited = async {
            loop {
                if let Some(status) = self.exit_status() {
                    return status;
                }
                sleep(POLL).await;
            }
        };
        timeout(deadline, exited).await.ok()
    }

    /// Sends `signal`. After SIGSTOP the process has really stopped when this returns.
    ///
    /// # Panics
    /// When the process has ended: its id may belong to another one by now.
    pub(crate) fn signal(&mut self, signal: Signal) {
        if let Some(status) = self.exit_status() {
            panic!("cannot send {signal} to process {}: it ended with {status}", self.pid());
        }
        let pid = Pid::from_raw(self.pid().try_into().expect("process ids are positive i32"));
        signal::kill(pid, signal).expect("a child that runs can be signalled");
        if signal == Signal::SIGSTOP {
            waitid(Id::Pid(pid), WaitPidFlag::WSTOPPED).expect("a child can be waited for");
        }
    }

    /// Ends the process with SIGKILL, stopped or not, and returns when it is gone.
    pub(crate) fn kill(&mut self) {
        // Both fail only when it has been waited for already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
