//! Keeps somebody else's server: it runs for as long as this process's parent wants it,
//! and not a moment longer, however that parent ends.

use std::{
    io::Read,
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{child::announce, machine};

/// Longest wait until a server listens, and until it has stopped.
const LIMIT: Duration = Duration::from_secs(10);

const PAUSE: Duration = Duration::from_millis(10);

/// Runs `command` until the parent has gone, and tells it when `address` takes
/// connections. It says nothing if the server ends before that.
pub(crate) fn run(address: SocketAddr, command: &[String]) {
    let Some((program, arguments)) = command.split_first() else {
        return;
    };
    let server = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn();
    let mut server = server.expect("an installed program can be run");
    if listens(&mut server, address) {
        announce(address);
        // Whatever ends it: there is nobody any more.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
    } else {
        eprintln!("it does not listen: {}", command.join(" "));
    }
    stop(&mut server);
}

fn listens(server: &mut Child, address: SocketAddr) -> bool {
    let start = Instant::now();
    while start.elapsed() < LIMIT && matches!(server.try_wait(), Ok(None)) {
        if TcpStream::connect(address).is_ok() {
            return true;
        }
        sleep(PAUSE);
    }
    false
}

/// Asks it to stop; if it does not, kills it and all that it has started.
fn stop(server: &mut Child) {
    let family = machine::family(server.id());
    let _ = kill_process(Pid::from_child(server), Signal::TERM); // It may have ended.
    let start = Instant::now();
    while start.elapsed() < LIMIT && matches!(server.try_wait(), Ok(None)) {
        sleep(PAUSE);
    }
    if matches!(server.try_wait(), Ok(None)) {
        for id in family {
            let id = i32::try_from(id).ok().and_then(Pid::from_raw);
            let _ = id.map(|id| kill_process(id, Signal::KILL));
        }
        let _ = server.wait();
    }
}
