//! A TCP proxy that a network in trouble is made of: it delays, swallows one direction, and cuts.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What goes through.
#[derive(Debug, Clone, Copy, Default)]
struct Network {
    /// How long each piece is held back, in each direction.
    delay: Duration,
    swallows: Option<Swallowed>,
    /// Connections of an earlier generation are cut.
    generation: u64,
}

/// What is taken from its sender and given to nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Swallowed {
    Requests,
    Answers,
}

/// A proxy; all goes through it until it is told otherwise.
#[derive(Clone)]
pub(crate) struct Tcp {
    /// `127.0.0.1:PORT`.
    pub(crate) address: String,
    network: Arc<watch::Sender<Network>>,
}

impl Tcp {
    /// Starts one before the server at `target`, `HOST:PORT`.
    pub(crate) async fn before(target: &str) -> Tcp {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address").to_string();
        let network = Arc::new(watch::Sender::new(Network::default()));
        let (target, follow) = (target.to_owned(), network.subscribe());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(connection(client, target.clone(), follow.clone()));
            }
        });
        Tcp { address, network }
    }

    /// Holds back what goes through from now on.
    pub(crate) fn delay(&self, delay: Duration) {
        self.network.send_modify(|network| network.delay = delay);
    }

    /// Swallows one direction of every connection from now on, until [`Tcp::heal`].
    pub(crate) fn swallow(&self, what: Swallowed) {
        self.network.send_modify(|network| network.swallows = Some(what));
    }

    /// Cuts every connection; new ones go through.
    pub(crate) fn cut(&self) {
        self.network.send_modify(|network| network.generation += 1);
    }

    /// All goes through again. Connections are cut: what was swallowed is missing in the middle of them.
    pub(crate) fn heal(&self) {
        self.network
            .send_modify(|network| *network = Network { generation: network.generation + 1, ..Network::default() });
    }
}

async fn connection(client: TcpStream, target: String, mut follow: watch::Receiver<Network>) {
    let generation = follow.borrow_and_update().generation;
    let Ok(server) = TcpStream::connect(&target).await else { return };
    for stream in [&client, &server] {
        stream.set_nodelay(true).ok();
    }
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    tokio::select! {
        () = pump(from_client, to_server, Swallowed::Requests, follow.clone()) => {}
        () = pump(from_server, to_client, Swallowed::Answers, follow.clone()) => {}
        _ = follow.wait_for(|network| network.generation != generation) => {}
    }
}

/// Carries one direction until it ends.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, direction: Swallowed, follow: watch::Receiver<Network>) {
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let Ok(count @ 1..) = from.read(&mut bytes).await else { return };
        let Network { delay, swallows, .. } = *follow.borrow();
        if swallows == Some(direction) {
            continue;
        }
        tokio::time::sleep(delay).await;
        if to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}
