//! Reports services that do not answer while a person waits for a command.

use std::time::Duration;

use crate::ready;
use crate::roles::Services;

/// A command that ends before this makes no extra requests.
const BEFORE: Duration = Duration::from_millis(500);
/// How long a service may take: together with the delay before, silence is reported within two seconds.
const WITHIN: Duration = Duration::from_millis(1_400);

/// Reports once which services do not answer. It ends with the process.
pub async fn say(services: Services) {
    tell(&found(&services).await);
}

/// Ends with one line where nothing answers at all, as after the local stack was stopped; else it says which services do
/// not, as [`say`] does, and never ends.
pub async fn nothing_answers(services: &Services) -> String {
    let silent = found(services).await;
    if silent.len() < ready::SERVICES {
        tell(&silent);
        return std::future::pending().await;
    }
    format!(
        "no service answers: {}. Start them (here with `freshet up`, and load its `env` again), or set other addresses",
        silent.join(", ")
    )
}

async fn found(services: &Services) -> Vec<String> {
    tokio::time::sleep(BEFORE).await;
    ready::silent(services, WITHIN).await
}

fn tell(silent: &[String]) {
    for service in silent {
        eprintln!("freshet: {service} does not answer");
    }
}
