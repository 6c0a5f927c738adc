//! The compose file's services, run here: Kafka and SeaweedFS with its settings, `setup`, then every role with its own
//! command, variables and health check, by the program of the image; a file goes through, and SIGTERM ends each in time.
//!
//! Only addresses are others: every service has a name and a network of its own there, and a port of loopback here.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream;
use freshet::local::{self, LocalStack, Options};
use freshet_sinks::s3::{self, S3Settings};
use sqlx::Connection;

use crate::compose::{Compose, ROOT, Service, compose, filled, seconds, written_env};
use crate::image;
use crate::parts::{Part, READY_WITHIN, free_port, start_kafka, weed};

const LOCATIONS: &str = "id,name,type,population,area\n1,Riverside,district,250000,120.5\n";
const HEALTH: &str = "\
location_id,date,dengue_cases,malaria_cases,heatstroke_cases,diarrhea_cases
1,2025-09-20,12,7,0,31
1,2025-09-21,-4,9,0,28
";

/// The services of the file and where they are here. Dropping it ends them and removes what they left.
struct Machine {
    compose: Compose,
    /// What `scripts/compose-env` wrote, but for the password of a Postgres that is there already.
    variables: BTreeMap<String, String>,
    /// What an address of the file, or the mounted folder, is here.
    addresses: Vec<(&'static str, String)>,
    stack: Option<LocalStack>,
    folder: PathBuf,
    kafka: Option<Part>,
    s3: Option<Part>,
}

impl Machine {
    async fn start() -> Machine {
        // Made before anything runs: it may take a minute.
        image::program();
        let folder = std::env::temp_dir().join(format!("freshet-compose-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("make the folder of the test");
        let options = Options { data_dir: folder.join("data"), kafka: false, postgres: true, s3: false, tell_to: None };
        let stack = LocalStack::start(options, |_| ()).await.expect("start Postgres");
        let url = stack.endpoints().database_url.clone().expect("Postgres runs");
        let (password, postgres) = password_and_address(&url);
        let mut variables = written_env(&folder);
        variables.insert("POSTGRES_PASSWORD".into(), password);
        let (kafka, s3) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
        let folder_of_pipeline = Path::new(ROOT).join("pipelines/climate_health").display().to_string();
        let addresses = vec![
            ("kafka:9092", kafka),
            ("postgres:5432", postgres),
            ("s3:8333", s3),
            ("/pipeline", folder_of_pipeline),
        ];
        let mut machine =
            Machine { compose: compose(), variables, addresses, stack: Some(stack), folder, kafka: None, s3: None };
        assert_eq!(machine.here(&machine.compose.services["setup"].environment["FRESHET__POSTGRES__URL"]), url);
        machine.kafka = Some(machine.start_kafka());
        machine.s3 = Some(machine.start_s3());
        machine
    }

    fn address(&self, of: &str) -> &str {
        &self.addresses.iter().find(|(there, _)| *there == of).expect("an address of the file").1
    }

    /// A value of the file as it is here.
    fn here(&self, value: &str) -> String {
        let filled = filled(value, &self.variables);
        self.addresses.iter().fold(filled, |text, (there, here)| text.replace(there, here))
    }

    /// The variables `KAFKA_…` as the image of Kafka makes properties of them.
    fn start_kafka(&self) -> Part {
        let environment = &self.compose.services["kafka"].environment;
        let (broker, host, controller) = (self.address("kafka:9092").to_owned(), free_port(), free_port());
        let ports = [("//:9092", format!("//{broker}")), ("29092", host.to_string()), ("9093", controller.to_string())];
        let mut properties = String::new();
        for (name, value) in environment {
            let name = name.strip_prefix("KAFKA_").filter(|name| !["HEAP_OPTS", "LOG_DIRS"].contains(name));
            let Some(name) = name else { continue };
            let value = ports.iter().fold(self.here(value), |text, (there, here)| text.replace(there, here));
            properties += &format!("{}={value}\n", name.to_lowercase().replace('_', "."));
        }
        let options: Vec<&str> = environment["KAFKA_HEAP_OPTS"].split(' ').collect();
        start_kafka(&self.folder, &environment["CLUSTER_ID"], &properties, &options)
    }

    fn start_s3(&self) -> Part {
        let service = &self.compose.services["s3"];
        let data = self.folder.join("s3");
        fs::create_dir_all(&data).expect("make the folder of S3");
        let port = self.address("s3:8333").rsplit_once(':').expect("a port").1.to_owned();
        let mut program = Command::new(weed());
        program.arg("-logtostderr=true");
        for argument in &service.command {
            let argument = argument.replace("0.0.0.0", "127.0.0.1").replace("8333", &port);
            program.arg(argument.replace("/data", &data.display().to_string()));
        }
        // Beside other tests' servers: its other doors are elsewhere too.
        for door in ["s3.port.grpc", "master.port", "volume.port", "filer.port", "admin.port"] {
            program.arg(format!("-{door}={}", free_port()));
        }
        for door in ["master.port.grpc", "volume.port.grpc", "filer.port.grpc", "admin.port.grpc"] {
            program.arg(format!("-{door}={}", free_port()));
        }
        program.envs(service.environment.iter().map(|(name, value)| (name, self.here(value)))).env("HOME", &data);
        Part::start("s3", &self.folder, &program)
    }

    /// `freshet` as a service's container runs it, with these arguments.
    fn freshet(&self, service: &Service, port: u16, arguments: &[String]) -> Command {
        let mut command = Command::new(image::program());
        command.args(arguments).env_clear().current_dir(&self.folder);
        for (name, value) in &service.environment {
            command.env(name, self.here(value).replace("0.0.0.0:9187", &format!("127.0.0.1:{port}")));
        }
        command
    }

    /// Runs `freshet` with a service's settings to its end: whether it succeeded, and what it said.
    fn run(&self, arguments: &[&str]) -> (bool, String) {
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        let output = self.freshet(&self.compose.services["setup"], 1, &arguments).output().expect("run freshet");
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        (self.kafka, self.s3, self.stack) = (None, None, None);
        local::remove(&self.folder.join("data")).ok();
        if !std::thread::panicking() {
            fs::remove_dir_all(&self.folder).ok();
        }
    }
}

/// Of `postgres://freshet:PASSWORD@ADDRESS/freshet`.
fn password_and_address(url: &str) -> (String, String) {
    let (login, place) = url.split_once('@').expect("a login");
    let password = login.rsplit_once(':').expect("a password").1;
    (password.to_owned(), place.split_once('/').expect("a database").0.to_owned())
}

/// `setup` says first what it would make, makes it, and then finds it.
async fn set_up(machine: &mut Machine) {
    let mut kafka = machine.kafka.take().expect("started");
    let mut s3 = machine.s3.take().expect("started");
    // As compose does: once they are healthy.
    let s3_health = machine.compose.services["s3"].healthcheck.as_ref().expect("a health check").test.clone();
    let url = s3_health.last().expect("a URL").replace("127.0.0.1:8333", machine.address("s3:8333"));
    s3.until(READY_WITHIN, async || curl(&url).then_some(())).await;
    kafka.until(READY_WITHIN, async || machine.run(&["setup", "--dry-run"]).0.then_some(())).await;
    (machine.kafka, machine.s3) = (Some(kafka), Some(s3));

    let (succeeded, said) = machine.run(&["setup", "--dry-run"]);
    assert!(succeeded && said.contains("a dry run: 20 of 20 would be prepared"), "{said}");
    let service = &machine.compose.services["setup"];
    let command: Vec<&str> = service.command.iter().map(String::as_str).collect();
    let (succeeded, said) = machine.run(&command);
    assert!(succeeded && said.contains("20 of 20 prepared"), "{said}");
    let (succeeded, said) = machine.run(&command);
    assert!(succeeded && said.contains("nothing to do; everything is as wanted"), "{said}");
}

fn curl(url: &str) -> bool {
    Command::new("curl").args(["-sS", "--fail", "-o", "/dev/null", url]).output().is_ok_and(|it| it.status.success())
}

/// The user that the dashboards ask as can read, and no more.
async fn the_reader_reads_only(machine: &Machine) {
    let (password, address) =
        password_and_address(&machine.here("postgres://freshet:${POSTGRES_PASSWORD:?}@postgres:5432/"));
    let (host, port) = address.split_once(':').expect("a port");
    let script = Command::new(Path::new(ROOT).join("scripts/compose-reader.sh"))
        .envs([("PGHOST", host), ("PGPORT", port), ("PGPASSWORD", &password)])
        .envs([("POSTGRES_USER", "freshet"), ("POSTGRES_DB", "freshet")])
        .env("READER_PASSWORD", &machine.variables["READER_PASSWORD"])
        .output()
        .expect("run the script");
    assert!(script.status.success(), "{}", String::from_utf8_lossy(&script.stderr));
    let grafana = &machine.compose.services["grafana"].environment;
    let of = |name: &str| machine.here(&grafana[&format!("FRESHET_POSTGRES_{name}")]);
    let url = format!("postgres://{}:{}@{}/{}", of("USER"), of("PASSWORD"), of("ADDRESS"), of("DATABASE"));
    let mut reader = sqlx::PgConnection::connect(&url).await.expect("the dashboards' user comes in");
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM health_data").fetch_one(&mut reader).await.expect("read");
    assert_eq!(rows, 2);
    let refused = sqlx::query("DELETE FROM health_data").execute(&mut reader).await.expect_err("it may not write");
    assert!(refused.to_string().contains("permission denied"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_services_of_the_file_carry_a_file_through_and_stop_in_time() {
    let mut machine = Machine::start().await;
    set_up(&mut machine).await;

    // Every role, and its own health check until it says yes.
    let mut roles = Vec::new();
    for (name, service) in machine.compose.roles() {
        let port = free_port();
        let role = Part::start(name, &machine.folder, &machine.freshet(service, port, &service.command));
        roles.push((name, service, port, role));
    }
    for (name, service, port, role) in &mut roles {
        let check = service.healthcheck.as_ref().expect("a health check");
        assert_eq!(check.test[..2], ["CMD", "freshet"], "{name}");
        let limit = Duration::from_secs(seconds(&check.start_period));
        let asked = async || machine.freshet(service, *port, &check.test[2..]).output().expect("run freshet");
        role.until(limit, async || asked().await.status.success().then_some(())).await;
    }

    let setup = &machine.compose.services["setup"].environment;
    let client = s3::client(&S3Settings {
        endpoint: machine.here(&setup["FRESHET__S3__ENDPOINT"]),
        region: machine.here(&setup["FRESHET__S3__REGION"]),
        access_key_id: machine.here(&setup["FRESHET__S3__ACCESS_KEY_ID"]).into(),
        secret_access_key: machine.here(&setup["FRESHET__S3__SECRET_ACCESS_KEY"]).into(),
        ..S3Settings::default()
    })
    .await;
    for (key, text) in [("locations/all.csv", LOCATIONS), ("health/one.csv", HEALTH)] {
        let body = ByteStream::from_static(text.as_bytes());
        client.put_object().bucket("freshet-raw").key(key).body(body).send().await.expect("drop a file");
    }
    let (through, said) = machine.run(&["status", "--wait", "--timeout", "60s"]);
    assert!(through, "{said}");
    let risks = client.get_object().bucket("freshet-processed").key("metrics/current_health_risks.csv").send().await;
    let risks = risks.expect("the output is there").body.collect().await.expect("read it").into_bytes();
    assert!(String::from_utf8_lossy(&risks).contains("Riverside"), "{risks:?}");
    the_reader_reads_only(&machine).await;

    for (name, service, _, role) in &mut roles {
        let limit = &service.deploy["resources"]["limits"]["memory"];
        println!("{name}: at most {} MiB of {limit}", role.peak_bytes() >> 20);
        let grace = seconds(service.stop_grace_period.as_ref().expect("a grace period"));
        let status = role.terminate(Duration::from_secs(grace));
        assert_eq!(status.code(), Some(0), "{name}:\n{}", role.log());
    }
}
