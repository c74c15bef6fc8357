//! A vocabulary for scenarios: real processes, real sockets, scripted upstreams.
//!
//! - [`Testbed`]: one control plane, its endpoints' upstreams and its proxies.
//! - [`ControlPlane`], [`Proxy`]: a running `qcc-control`, a running `qcc-proxy`.
//! - [`Upstream`]: an LLM API that says what the test tells it to say, by
//!   [`Answer`]s, some of them held back by a [`Gate`].
//! - [`client`]: HTTP requests with nothing between the test and the wire.
//! - [`metrics`]: a page of metrics, read strictly. [`foreign`]: other implementations.
//! - [`Relay`]: a TCP relay that can be cut, stalled and made long. [`Tap`]: one that
//!   keeps what clients send.
//! - [`FakeProxy`]: a data plane that misbehaves on purpose.
//! - [`Injection`]: a fault at a system call of a process.
//! - [`possible`]: says loudly what this machine does not let a test do.
//! - [`Load`]: clients that go on and on.
//! - [`Network`]: machines of a test's own, whose packets it can drop.
//! - [`Names`], [`Authority`], [`TlsFront`]: the name server, the certificates and
//!   the TLS of upstreams that need them.
//! - [`Process`]: a child process whose every output is kept.
//! - [`eventually`]: waits for a condition, never for a duration.
//!
//! All of it panics when something is not as it should be: it is test code, and
//! a panic is how a test fails.

mod cli;
pub mod client;
mod control;
mod fake_proxy;
pub mod foreign;
mod load;
pub mod metrics;
mod names;
mod needs;
mod network;
mod process;
mod proxy;
mod relay;
mod strace;
mod tap;
mod testbed;
mod tls;
mod upstream;
mod wait;

pub use cli::Output;
pub use control::ControlPlane;
pub use fake_proxy::{FakeProxy, outcome};
pub use load::Load;
pub use names::{Names, Says};
pub use needs::possible;
pub use network::{Host, Network};
pub use process::{Logs, Process, binary, by_shell};
pub use proxy::Proxy;
pub use relay::Relay;
pub use strace::{Fault, Injection};
pub use tap::Tap;
pub use testbed::{Builder, Testbed, no_check, schedule};
pub use tls::{Authority, TlsFront, Validity};
pub use upstream::{Answer, Checks, Gate, Piece, Request, Upstream};
pub use wait::{LIMIT, eventually};
