//! A name server that says what the test tells it to say.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use tokio::{net::UdpSocket, task::JoinHandle};

use crate::process::lock;

/// Length of the header of a DNS message.
const HEADER_BYTES: usize = 12;

/// Query type of IPv4 addresses.
const TYPE_A: u16 = 1;

/// What is said about a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Says {
    /// It has this address, for this moment.
    Address(Ipv4Addr),
    /// There is no such name.
    Unknown,
    /// Nothing at all.
    Nothing,
}

/// A running name server. It knows no name until it is told.
pub struct Names {
    entries: Arc<Mutex<BTreeMap<String, Says>>>,
    task: JoinHandle<()>,
}

impl Names {
    /// Starts a name server on the port where resolvers look for one.
    pub async fn start(ip: Ipv4Addr) -> Self {
        let socket = UdpSocket::bind(SocketAddr::from((ip, 53))).await;
        let socket = socket.expect("root may have the port, and nobody else has it");
        let entries = Arc::<Mutex<BTreeMap<_, _>>>::default();
        let task = tokio::spawn(serve(socket, Arc::clone(&entries)));
        Self { entries, task }
    }

    /// Says this of a name from now on.
    pub fn say(&self, name: &str, says: Says) {
        lock(&self.entries).insert(name.to_owned(), says);
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(socket: UdpSocket, entries: Arc<Mutex<BTreeMap<String, Says>>>) {
    let mut buffer = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        let Some((name, query_type, end)) = question(&buffer[..length]) else {
            continue;
        };
        let says = lock(&entries).get(&name).copied();
        if let Some(answer) = answer(&buffer[..end], query_type, says.unwrap_or(Says::Unknown)) {
            // Whoever asked may have gone away.
            let _ = socket.send_to(&answer, from).await;
        }
    }
}

/// Reads the only question of a query: name, type, and where it ends.
fn question(query: &[u8]) -> Option<(String, u16, usize)> {
    let mut labels = Vec::new();
    let mut at = HEADER_BYTES;
    loop {
        let length = usize::from(*query.get(at)?);
        let label = query.get(at + 1..at + 1 + length)?;
        at += 1 + length;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
    }
    let query_type = query.get(at..at + 2)?;
    let query_type = u16::from_be_bytes([query_type[0], query_type[1]]);
    let end = at + 4;
    (end <= query.len()).then(|| (labels.join("."), query_type, end))
}

/// Answers a query that is cut after its question.
fn answer(query: &[u8], query_type: u16, says: Says) -> Option<Vec<u8>> {
    let address = match says {
        Says::Nothing => return None,
        Says::Address(address) if query_type == TYPE_A => Some(address),
        Says::Address(_) | Says::Unknown => None,
    };
    let code = if says == Says::Unknown { 3 } else { 0 };
    let mut answer = query.to_vec();
    // A response, recursion desired and available; one question, no more than an answer.
    answer[2..HEADER_BYTES].copy_from_slice(&[0x81, 0x80 | code, 0, 1, 0, 0, 0, 0, 0, 0]);
    if let Some(address) = address {
        answer[7] = 1;
        // The name of the question, type A, class IN, for no time, four bytes.
        answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        answer.extend_from_slice(&address.octets());
    }
    Some(answer)
}
