//! The whole path over real sockets, one story a test.

mod blame;
mod bodies;
mod clients;
mod harness;
mod holding;
mod http2;
mod limits;
mod no_answer;
mod own;
mod retries;
mod rewriting;
mod streams;
mod waiting;
mod wire;
