//! Listening, for both daemons alike.

use std::{io, net::SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

/// Connections that wait to be accepted. The kernel may allow fewer; beyond that a
/// client's first packet is lost, and comes again a second later.
const BACKLOG: u32 = 4096;

/// Binds as [`TcpListener::bind`] does, but with room for a crowd that comes at once.
///
/// # Errors
///
/// Fails if the address cannot be listened on.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}
