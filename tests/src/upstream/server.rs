//! The connections of a scripted upstream.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp::WriteHalf},
    task::JoinSet,
};

use super::{Answer, Piece, State, answer::End, http::Request};

pub(super) async fn serve(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(connection(stream, Arc::clone(&state)));
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(mut stream: TcpStream, state: Arc<State>) {
    let _ = stream.set_nodelay(true);
    let mut buffer = BytesMut::new();
    loop {
        let (mut reader, mut writer) = stream.split();
        let Some(request) = Request::read(&mut reader, &mut buffer).await else {
            return;
        };
        let bodiless = request.method == "HEAD";
        let _guard = (!request.is_check()).then(|| InFlight::enter(&state));
        let answer = state.take(request);
        let mut rest = [0; 1];
        // A client that waits for an answer sends nothing: if the socket becomes
        // readable, it is because the client has gone.
        let complete = tokio::select! {
            written = write(&answer, bodiless, &mut writer) => written,
            _ = reader.read(&mut rest) => false,
        };
        if !complete {
            state.disconnects.fetch_add(1, Relaxed);
            return;
        }
        match answer.end {
            End::Complete if answer.leaves => {
                drop(stream);
                state.departures.fetch_add(1, Relaxed);
                return;
            }
            End::Complete => {}
            End::Close | End::Hang => return,
            End::Reset => {
                let _ = stream.set_zero_linger();
                return;
            }
        }
    }
}

/// Writes an answer. `false` if the client went away first.
async fn write(answer: &Answer, bodiless: bool, to: &mut WriteHalf<'_>) -> bool {
    for gate in &answer.before {
        gate.pass().await;
    }
    if let Some(status) = answer.status {
        if to.write_all(answer.head(status).as_bytes()).await.is_err() {
            return false;
        }
        if !bodiless && !write_body(answer, to).await {
            return false;
        }
    }
    if answer.end == End::Hang {
        std::future::pending::<()>().await;
    }
    true
}

async fn write_body(answer: &Answer, to: &mut WriteHalf<'_>) -> bool {
    for piece in &answer.body {
        let data = match piece {
            Piece::Data(data) if data.is_empty() => continue,
            Piece::Data(data) => data,
            Piece::Wait(gate) => {
                gate.pass().await;
                continue;
            }
        };
        let mut bytes = BytesMut::new();
        if answer.chunked {
            bytes.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
            bytes.extend_from_slice(data);
            bytes.extend_from_slice(b"\r\n");
        } else {
            bytes.extend_from_slice(data);
        }
        if to.write_all(&bytes).await.is_err() {
            return false;
        }
    }
    let end: &[u8] = if answer.chunked && answer.end == End::Complete {
        b"0\r\n\r\n"
    } else {
        b""
    };
    to.write_all(end).await.is_ok()
}

/// Counts a client request while it is being answered.
struct InFlight<'a>(&'a AtomicUsize);

impl<'a> InFlight<'a> {
    fn enter(state: &'a State) -> Self {
        let now = state.in_flight.fetch_add(1, Relaxed) + 1;
        state.in_flight_peak.fetch_max(now, Relaxed);
        Self(&state.in_flight)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
