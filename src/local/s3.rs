//! SeaweedFS (`weed mini`: master, volume server, filer and S3 gateway in one process) on loopback.
//!
//! Of the two all-in-one commands, `mini` was measured: ready in 0.6 s and stopped in 2 to 3 s, where `server` takes
//! 3 s and 16 s. What was acknowledged survives a `kill -9`, and the data moves to other ports without harm.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use rustix::process::Signal;
use secrecy::ExposeSecret;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::TellTo;
use super::child::{Child, Spec, StopSteps};
use super::components::Components;
use super::folder::{Folder, State, make_dir, write_private};
use crate::http::EVENTS;

pub(super) const NAME: &str = "s3";
pub(super) const REGION: &str = "us-east-1";
/// Its HTTP ports. Each has a gRPC port [`GRPC_OFFSET`] above it.
pub(super) const PORTS: [&str; 5] = ["s3", "s3_master", "s3_volume", "s3_filer", "s3_admin"];
/// SeaweedFS's own: its maintenance worker looks for the admin server there, whatever the flag says.
pub(super) const GRPC_OFFSET: u16 = 10_000;
/// It takes 1 to 3 s by itself, and a kill does its data no harm.
pub(super) const STOP: StopSteps = &[(Signal::TERM, Duration::from_secs(4))];
const START_LIMIT: Duration = Duration::from_secs(60);
/// The state of one volume server with a few volumes is some kilobytes.
const ANSWER_BYTES_MAX: u64 = 1024 * 1024;

/// Starts the S3 server and returns once it knows its keys and has a volume server to write to.
pub(super) async fn start(folder: &Folder, components: &Components) -> anyhow::Result<Child> {
    let home = folder.root.join("s3");
    let data = home.join("data");
    make_dir(&home, 0o700)?;
    make_dir(&data, 0o700)?;
    let identities = home.join("identities.json");
    write_private(&identities, &identities_json(&folder.state))?;
    // It holds the flags of the last run, and would win over ours where ours equal the defaults.
    fs::remove_file(data.join("mini.options")).ok();
    remove_sockets(&folder.state);
    let mut child = Child::start(Spec {
        name: NAME,
        program: components.weed.clone(),
        args: arguments(&folder.state, &data, &identities),
        env: vec![
            ("HOME", home.clone().into_os_string()),
            // Two volumes a bucket, and not seven.
            ("WEED_MASTER_VOLUME_GROWTH_COPY_1", "2".into()),
        ],
        user: None,
        working_dir: home,
        log: folder.log(NAME),
        record: folder.record(NAME),
        on_our_death: Signal::KILL,
        stop: STOP,
    })?;
    let (s3, master) = (folder.state.port("s3"), folder.state.port("s3_master"));
    child.ready(START_LIMIT, || async move { is_ready(s3, master).await.unwrap_or(false) }).await?;
    Ok(child)
}

/// Writes SeaweedFS's notification settings, which it reads from its folder at its start.
pub(super) fn write_notification(folder: &Folder, tell_to: Option<&TellTo>) -> anyhow::Result<()> {
    let home = folder.root.join("s3");
    let path = home.join("notification.toml");
    match tell_to {
        Some(tell_to) => {
            make_dir(&home, 0o700)?;
            write_private(&path, &notification_toml(tell_to))
        }
        None => {
            fs::remove_file(path).ok();
            Ok(())
        }
    }
}

/// Notifications are hints, and the listing finds what is lost: few retries, in quick succession.
///
/// Both buckets keep versions. For a PUT, SeaweedFS creates the version's file, and the folder of the key's versions if there is
/// none, before it updates that folder to name the current version. Only this last step makes the version visible, so only
/// it is announced: a third of the messages, and none too early.
fn notification_toml(tell_to: &TellTo) -> String {
    let TellTo { address, token, paths } = tell_to;
    // Strings of JSON are strings of TOML.
    let text = |text: &str| serde_json::Value::from(text).to_string();
    let paths: Vec<String> = paths.iter().map(|path| text(path)).collect();
    format!(
        "[notification.webhook]\nenabled = true\nendpoint = {}\nbearer_token = {}\npath_prefixes = [{}]\n\
         event_types = [\"update\", \"rename\"]\n\
         timeout_seconds = 2\nmax_retries = 1\nbackoff_seconds = 1\nmax_backoff_seconds = 1\n",
        text(&format!("http://{address}{EVENTS}")),
        text(token.expose_secret()),
        paths.join(", "),
    )
}

/// Removes the sockets that SeaweedFS makes in /tmp for its own talk and leaves there when it is killed.
pub(super) fn remove_sockets(state: &State) {
    for name in PORTS {
        let (service, port) = (service(name), state.port(name));
        fs::remove_file(format!("/tmp/seaweedfs-{service}-grpc-{}.sock", port + GRPC_OFFSET)).ok();
        fs::remove_file(format!("/tmp/seaweedfs-{service}-{port}.sock")).ok();
    }
}

/// `s3_master` is `master`, `s3` is itself.
fn service(name: &str) -> &str {
    name.strip_prefix("s3_").unwrap_or(name)
}

fn arguments(state: &State, data: &Path, identities: &Path) -> Vec<std::ffi::OsString> {
    let mut args: Vec<String> = [
        "-logtostderr=true",
        "mini",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.telemetry=false",
        "-volume.preStopSeconds=0",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        // A bucket's name with a slip in it is an error, not a new bucket.
        "-s3.autoCreateBucket=false",
        "-webdav=false",
        "-admin.ui=false",
    ]
    .map(str::to_owned)
    .into();
    for name in PORTS {
        let (service, port) = (service(name), state.port(name));
        args.push(format!("-{service}.port={port}"));
        args.push(format!("-{service}.port.grpc={}", port + GRPC_OFFSET));
    }
    let mut args: Vec<std::ffi::OsString> = args.into_iter().map(Into::into).collect();
    for (flag, path) in [("-dir=", data), ("-s3.config=", identities)] {
        let mut arg = std::ffi::OsString::from(flag);
        arg.push(path);
        args.push(arg);
    }
    args
}

fn identities_json(state: &State) -> String {
    let identity = serde_json::json!({
        "name": "freshet",
        "credentials": [{"accessKey": state.s3_access_key_id, "secretKey": state.s3_secret_access_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    });
    serde_json::json!({ "identities": [identity] }).to_string() + "\n"
}

async fn is_ready(s3: u16, master: u16) -> anyhow::Result<bool> {
    // Without a signature: refused once the keys are loaded, let in before.
    let gateway = get(s3, "/").await?;
    let topology = get(master, "/dir/status").await?;
    Ok(gateway.contains("AccessDenied") && topology.contains("\"Url\""))
}

async fn get(port: u16, path: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await.context("read answer")?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_it_tells_is_written_as_toml() {
        let tell_to = TellTo {
            address: ([127, 0, 0, 1], 4_100).into(),
            token: "to\"ken".into(),
            paths: vec!["/buckets/raw/".into(), "/buckets/out/x/".into()],
        };
        let written: toml::Value = toml::from_str(&notification_toml(&tell_to)).expect("TOML");
        let webhook = &written["notification"]["webhook"];
        assert_eq!(webhook["endpoint"].as_str(), Some("http://127.0.0.1:4100/s3-events"));
        assert_eq!(webhook["bearer_token"].as_str(), Some("to\"ken"));
        assert_eq!(webhook["path_prefixes"][1].as_str(), Some("/buckets/out/x/"));
        let types: Vec<_> = webhook["event_types"].as_array().expect("a list").iter().map(|it| it.as_str()).collect();
        assert_eq!(types, [Some("update"), Some("rename")]);
    }

    #[test]
    fn no_key_is_on_the_command_line() {
        let temp = tempfile::tempdir().expect("tempdir");
        let mut folder = Folder::open(&temp.path().join("data")).expect("open");
        folder.claim_ports(&PORTS, Some(GRPC_OFFSET)).expect("ports");
        let args = arguments(&folder.state, Path::new("/data"), Path::new("/identities.json"));
        let line = args.join(std::ffi::OsStr::new(" ")).into_string().expect("utf-8");
        assert!(!line.contains(&folder.state.s3_secret_access_key) && !line.contains(&folder.state.s3_access_key_id));
        assert!(line.contains(&format!("-admin.port.grpc={}", folder.state.port("s3_admin") + 10_000)), "{line}");
        assert!(identities_json(&folder.state).contains(&folder.state.s3_secret_access_key));
    }
}
