//! A proxy before Postgres that reads the protocol just enough to cut a connection at its COMMIT.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// What a client that wants TLS or Kerberos asks first; the answer is one byte.
const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;

/// When a connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Postgres never sees the COMMIT: it rolls back.
    Before,
    /// Postgres has committed, and its answer does not come back.
    After,
}

/// Which COMMITs are cut.
#[derive(Default)]
struct Plan {
    /// Every so many of them; none where there is no plan.
    cut: Option<(Cut, u64)>,
    seen: u64,
    cuts: u64,
}

impl Plan {
    fn next(&mut self) -> Option<Cut> {
        let (cut, every) = self.cut?;
        self.seen += 1;
        let hit = self.seen.is_multiple_of(every);
        self.cuts += u64::from(hit);
        hit.then_some(cut)
    }
}

/// The proxy.
pub(crate) struct Wire {
    pub(crate) address: String,
    plan: Arc<Mutex<Plan>>,
}

impl Wire {
    /// Starts one before the Postgres at `target`, `HOST:PORT`.
    pub(crate) fn before(target: &str) -> Wire {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket for tokio");
        let listener = TcpListener::from_std(listener).expect("a socket for tokio");
        let wire = Wire { address: listener.local_addr().expect("an address").to_string(), plan: Arc::default() };
        let (plan, target) = (Arc::clone(&wire.plan), target.to_owned());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(&target).await else { continue };
                // Messages go on one by one: each would wait for the acknowledgement of the one before.
                client.set_nodelay(true).expect("a socket");
                server.set_nodelay(true).expect("a socket");
                tokio::spawn(pass(client, server, Arc::clone(&plan)));
            }
        });
        wire
    }

    /// Cuts every so many COMMITs from now on.
    pub(crate) fn cut(&self, cut: Cut, every: u64) {
        *self.plan.lock().expect("not poisoned") = Plan { cut: Some((cut, every)), ..Plan::default() };
    }

    /// How many it has cut.
    pub(crate) fn cuts(&self) -> u64 {
        self.plan.lock().expect("not poisoned").cuts
    }

    /// Lets everything through again.
    pub(crate) fn recover(&self) {
        self.plan.lock().expect("not poisoned").cut = None;
    }
}

/// Both directions, until one of them ends; then both sockets close.
async fn pass(client: TcpStream, server: TcpStream, plan: Arc<Mutex<Plan>>) {
    let (from_client, mut to_client) = client.into_split();
    let (mut from_server, to_server) = server.into_split();
    let (swallow, answered) = (Arc::new(AtomicBool::new(false)), CancellationToken::new());
    let requests = requests(from_client, to_server, plan, Arc::clone(&swallow), answered.clone());
    let answers = async {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
            if swallow.load(Ordering::SeqCst) {
                answered.cancel();
                return;
            }
            if to_client.write_all(&buffer[..count]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        _ = requests => {}
        () = answers => {}
    }
}

/// What the client sends, message by message. Ends where the connection is to be cut.
async fn requests(
    client: OwnedReadHalf,
    mut server: OwnedWriteHalf,
    plan: Arc<Mutex<Plan>>,
    swallow: Arc<AtomicBool>,
    answered: CancellationToken,
) -> std::io::Result<()> {
    let mut client = BufReader::new(client);
    // Before the start-up message a client may ask for TLS: here it is told no, or yes and then we see nothing.
    loop {
        let length = client.read_u32().await?;
        let mut rest = vec![0; length.saturating_sub(4) as usize];
        client.read_exact(&mut rest).await?;
        server.write_all(&[&length.to_be_bytes()[..], &rest].concat()).await?;
        let code = rest.first_chunk::<4>().map(|code| u32::from_be_bytes(*code));
        if !matches!(code, Some(SSL_REQUEST | GSS_REQUEST)) {
            break;
        }
    }
    loop {
        let (kind, length) = (client.read_u8().await?, client.read_u32().await?);
        let mut rest = vec![0; length.saturating_sub(4) as usize];
        client.read_exact(&mut rest).await?;
        // sqlx ends its transactions by a simple query.
        let is_commit = kind == b'Q' && rest == b"COMMIT\0";
        let cut = if is_commit { plan.lock().expect("not poisoned").next() } else { None };
        match cut {
            Some(Cut::Before) => return Ok(()),
            Some(Cut::After) => swallow.store(true, Ordering::SeqCst),
            None => {}
        }
        server.write_all(&[&[kind][..], &length.to_be_bytes(), &rest].concat()).await?;
        if cut == Some(Cut::After) {
            answered.cancelled().await;
            return Ok(());
        }
    }
}
