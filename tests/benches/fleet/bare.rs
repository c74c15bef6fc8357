//! The floor for everything over gRPC: the same messages through the same generated
//! code, with nothing behind it.
//!
//! It acknowledges a batch that it has decoded and sends bytes that it was given: some
//! to whoever begins to watch, others to all who watch at each report.
//!
//! One that *stores* is busy with as much beside that as a control plane must be: before
//! it acknowledges a report, two writes are synced on a thread of their own, which is what
//! a commit in two phases takes at least; and to be asked for a snapshot is a change as
//! well, stored before all who watch are sent the update.

use std::{
    fs::File,
    io,
    net::SocketAddr,
    os::unix::fs::FileExt,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use qcc_proto::{
    encoded::{HealthSyncService, HealthSyncServiceServer, encode},
    v1::{
        GetSnapshotRequest, GetSnapshotResponse, ReportOutcomesRequest, ReportOutcomesResponse,
        StreamReportsRequest, StreamReportsResponse, View, WatchSnapshotsRequest,
        WatchSnapshotsResponse,
    },
};
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::mpsc::{UnboundedSender, unbounded_channel},
    task::{spawn_blocking, yield_now},
};
use tokio_stream::{Stream, StreamExt, wrappers::UnboundedReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Server, server::TcpIncoming},
};

use crate::machine::SCRATCH;

/// What is written at a time.
const PAGE: [u8; 4096] = [b'p'; 4096];

/// A floor that is bound and about to serve.
pub(crate) struct Bare {
    listener: TcpListener,
    service: Service,
}

#[derive(Clone)]
struct Service {
    opening: Arc<[Bytes]>,
    update: Option<Bytes>,
    disk: Option<Arc<File>>,
    watchers: Arc<Mutex<Vec<UnboundedSender<Bytes>>>>,
}

impl Bare {
    /// Binds a floor of which every watch begins with `opening`, and to whose watchers
    /// each report brings `update`.
    pub(crate) async fn bind(
        opening: &[WatchSnapshotsResponse],
        update: Option<&WatchSnapshotsResponse>,
    ) -> Self {
        Self {
            listener: listen().expect("there is a free port"),
            service: Service {
                opening: opening.iter().map(encode).collect(),
                update: update.map(encode),
                disk: None,
                watchers: Arc::default(),
            },
        }
    }

    /// Lets it store.
    pub(crate) fn storing(mut self) -> Self {
        let file = tempfile::tempfile_in(SCRATCH);
        let file = file.expect("the build's directory is writable");
        file.write_all_at(&PAGE, PAGE.len() as u64)
            .expect("there is room for two pages");
        self.service.disk = Some(Arc::new(file));
        self
    }

    pub(crate) fn address(&self) -> SocketAddr {
        let bound = self.listener.local_addr();
        bound.expect("a bound listener has an address")
    }

    pub(crate) async fn run_until(self, stop: CancellationToken) {
        let incoming = TcpIncoming::from(self.listener).with_nodelay(Some(true));
        let serve = Server::builder()
            .add_service(HealthSyncServiceServer::new(self.service))
            .serve_with_incoming(incoming);
        tokio::select! {
            served = serve => served.expect("the floor serves until it is stopped"),
            () = stop.cancelled() => {}
        }
    }
}

/// Binds with the room for waiting connections that the control plane has: where it
/// overflows, the kernel resets some.
fn listen() -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    socket.listen(4096)
}

impl Service {
    /// Makes something durable, if it stores.
    async fn store(&self) {
        let Some(disk) = self.disk.clone() else {
            return;
        };
        let write = move || {
            for at in [0, PAGE.len() as u64] {
                disk.write_all_at(&PAGE, at)?;
                disk.sync_data()?;
            }
            io::Result::Ok(())
        };
        let written = spawn_blocking(write).await;
        let written = written.expect("to write does not panic");
        written.expect("the disk works");
    }

    /// Sends the update to everybody, if there is one.
    fn fan_out(&self) {
        let Some(update) = &self.update else { return };
        let watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        for watcher in watchers.iter() {
            // A watcher that has left needs no update.
            let _ = watcher.send(update.clone());
        }
    }
}

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl HealthSyncService for Service {
    type WatchSnapshotsStream = Replies<Bytes>;
    type StreamReportsStream = Replies<StreamReportsResponse>;

    async fn watch_snapshots(
        &self,
        _: Request<WatchSnapshotsRequest>,
    ) -> Result<Response<Self::WatchSnapshotsStream>, Status> {
        let (watcher, updates) = unbounded_channel();
        for message in self.opening.iter() {
            // Whoever begins to watch is still there.
            let _ = watcher.send(message.clone());
        }
        self.watchers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(watcher);
        let updates = UnboundedReceiverStream::new(updates).map(Ok);
        Ok(Response::new(Box::pin(updates)))
    }

    async fn stream_reports(
        &self,
        request: Request<Streaming<StreamReportsRequest>>,
    ) -> Result<Response<Self::StreamReportsStream>, Status> {
        let service = self.clone();
        let answers = request.into_inner().then(move |request| {
            let service = service.clone();
            async move {
                let batch = request?.batch.unwrap_or_default();
                if !batch.outcomes.is_empty() {
                    service.fan_out();
                    if service.disk.is_some() {
                        yield_now().await; // Everybody is told first.
                    }
                    service.store().await;
                }
                let next = batch.first_sequence + batch.outcomes.len() as u64;
                Ok(StreamReportsResponse {
                    acknowledged_sequence: next.saturating_sub(1),
                    view: Some(View::default()),
                    sequence_gap: false,
                })
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn get_snapshot(
        &self,
        _: Request<GetSnapshotRequest>,
    ) -> Result<Response<GetSnapshotResponse>, Status> {
        if self.disk.is_some() {
            self.store().await;
            self.fan_out();
        }
        Ok(Response::new(GetSnapshotResponse::default()))
    }

    async fn report_outcomes(
        &self,
        _: Request<ReportOutcomesRequest>,
    ) -> Result<Response<ReportOutcomesResponse>, Status> {
        Err(Status::unimplemented("the floor takes streams"))
    }
}
