//! Keepalive for connections to Postgres, which sqlx does not set.
//!
//! Where a server or the network to it disappears without a word, nobody sends a FIN or a RST. The system then gives up what
//! was sent after about a quarter of an hour (`tcp_retries2`), and never gives up waiting for the answer to a query that
//! had arrived. libpq sets the same options: `keepalives_idle`, `keepalives_interval`, `keepalives_count` and
//! `tcp_user_timeout`.
//!
//! sqlx does not hand out its sockets, so they are looked up among the descriptors of the process, by the port they are
//! connected to. Another client's connection to the same port gets the options too, which does it no harm.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::Once;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{getpeername, sockopt};

/// A connection that is silent for so long is asked whether its peer is still there.
const IDLE: Duration = Duration::from_secs(30);
/// Between two questions.
const INTERVAL: Duration = Duration::from_secs(10);
/// It is closed after so many questions without an answer: a minute after it was last heard.
const PROBES_MAX: u32 = 3;
/// Data that is not acknowledged for so long closes the connection: there are no questions meanwhile. So does a server that
/// takes nothing for so long, as one that waits for a lock in the middle of a COPY larger than its buffers; the batch is then
/// tried again.
const UNACKNOWLEDGED_MAX_MS: u32 = 60_000;

/// Turns keepalive on for every TCP connection of this process to `port` of any host. Those that have it keep it.
///
/// Where it cannot be turned on, that is logged, once: all works without it, until a server disappears.
pub(super) fn turn_on(port: u16) {
    static LOGGED: Once = Once::new();
    if let Err(error) = try_to(port) {
        LOGGED.call_once(|| tracing::warn!(%error, "cannot turn on keepalive for connections to Postgres"));
    }
}

fn try_to(port: u16) -> io::Result<()> {
    let mut result = Ok(());
    for entry in fs::read_dir("/proc/self/fd")? {
        if let Some(number) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) {
            match set(number, port) {
                // It was closed meanwhile.
                Ok(()) | Err(Errno::BADF | Errno::NOTSOCK | Errno::NOTCONN) => {}
                Err(error) => result = Err(error.into()),
            }
        }
    }
    result
}

/// Anything but a TCP connection to `port` stays as it is.
#[allow(unsafe_code)]
fn set(number: RawFd, port: u16) -> Result<(), Errno> {
    // SAFETY: the descriptor was open a moment ago. If its owner has closed it since, the calls below fail, or find what
    // was opened in its place; they read its peer and set options that only decide when a dead connection is noticed.
    let socket = unsafe { BorrowedFd::borrow_raw(number) };
    let peer = getpeername(socket).ok().flatten().and_then(|peer| SocketAddr::try_from(peer).ok());
    if peer.is_none_or(|peer| peer.port() != port) {
        return Ok(());
    }
    sockopt::set_tcp_keepidle(socket, IDLE)?;
    sockopt::set_tcp_keepintvl(socket, INTERVAL)?;
    sockopt::set_tcp_keepcnt(socket, PROBES_MAX)?;
    sockopt::set_tcp_user_timeout(socket, UNACKNOWLEDGED_MAX_MS)?;
    sockopt::set_socket_keepalive(socket, true)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn connected() -> (TcpListener, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let stream = TcpStream::connect(listener.local_addr().expect("an address")).expect("connect");
        (listener, stream)
    }

    #[test]
    fn connections_to_the_port_are_asked_and_others_are_not() {
        let ((listener, wanted), (_other_listener, other)) = (connected(), connected());
        try_to(listener.local_addr().expect("an address").port()).expect("options");
        assert!(sockopt::socket_keepalive(&wanted).expect("an option"));
        assert_eq!(sockopt::tcp_keepidle(&wanted).expect("an option"), IDLE);
        assert_eq!(sockopt::tcp_keepintvl(&wanted).expect("an option"), INTERVAL);
        assert_eq!(sockopt::tcp_keepcnt(&wanted).expect("an option"), PROBES_MAX);
        assert_eq!(sockopt::tcp_user_timeout(&wanted).expect("an option"), UNACKNOWLEDGED_MAX_MS);
        assert!(!sockopt::socket_keepalive(&other).expect("an option"));
    }
}
