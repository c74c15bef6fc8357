//! A connection of a proxy to the endpoint.

use super::Pipe;
use crate::forwarding::wire;

/// One connection, one request at a time.
pub(super) struct Asked {
    pub(super) pipe: Pipe,
    /// Events that its answer still has.
    pub(super) events_left: usize,
    /// The head so far.
    head: Vec<u8>,
    /// Bytes of the body that are still to come, and who sent it.
    body: Option<(usize, usize)>,
}

impl Asked {
    pub(super) fn new(pipe: Pipe) -> Self {
        Self {
            pipe,
            events_left: 0,
            head: Vec::new(),
            body: None,
        }
    }

    /// Takes what has come. Once the request is whole, returns whose it is.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Option<usize> {
        let (rest, client) = match self.body {
            Some((rest, client)) => (rest.saturating_sub(bytes.len()), client),
            None => {
                self.head.extend_from_slice(bytes);
                let head = wire::head(&self.head)?;
                let length = wire::content_length(&self.head[..head]);
                let length = length.expect("the proxy tells the request's length");
                let client = wire::client(&self.head[..head]);
                let rest = (head + length).saturating_sub(self.head.len());
                self.head.clear();
                (rest, client)
            }
        };
        self.body = (rest > 0).then_some((rest, client));
        (rest == 0).then_some(client)
    }
}
