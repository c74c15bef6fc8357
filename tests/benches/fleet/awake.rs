//! Processors that do not sleep.
//!
//! A virtual processor without work is taken off its core, and it takes its host as long as
//! what is measured, or many times that, to bring it back: a figure of the host, which differs
//! from minute to minute. So where nobody else wants to run, a process of the scheduler's idle
//! class does (sched(7), `SCHED_IDLE`). Whoever is woken runs in its place at once.

use std::{
    env, hint,
    io::Read,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use crate::{child::Role, machine::spawn_on};

/// Keeps processors awake for as long as it lives.
pub(crate) struct Awake(Vec<Child>);

impl Awake {
    /// Begins with these cores, if the system has `chrt`, and says so if it has not.
    pub(crate) fn on(cores: impl IntoIterator<Item = usize>) -> Self {
        let started = cores.into_iter().map(|core| {
            let spawned = spawn_on(core, "spawn", || {
                Command::new("chrt")
                    .args(["--idle", "0"])
                    .arg(env::current_exe()?)
                    .args(Role::Awake.arguments())
                    .stdin(Stdio::piped())
                    .stdout(Stdio::null())
                    .spawn()
            });
            spawned.join().expect("the spawning thread does not panic")
        });
        match started.collect() {
            Ok(children) => Self(children),
            Err(error) => {
                eprintln!(
                    "processors may sleep: `chrt` cannot be run (on Debian: `util-linux`): {error}"
                );
                Self(Vec::new())
            }
        }
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        for child in &mut self.0 {
            drop(child.stdin.take());
            // It ends by itself; an error would mean that it has already.
            let _ = child.wait();
        }
    }
}

/// What each of these processes does, until its parent has gone.
pub(crate) fn run() {
    let is_orphan = Arc::<AtomicBool>::default();
    let told = Arc::clone(&is_orphan);
    thread::spawn(move || {
        // Whatever ends it: there is nobody any more.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        told.store(true, Ordering::Relaxed);
    });
    while !is_orphan.load(Ordering::Relaxed) {
        hint::spin_loop();
    }
}
