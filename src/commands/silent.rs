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
    tokio::time::sleep(BEFORE).await;
    for service in ready::silent(&services, WITHIN).await {
        eprintln!("freshet: {service} does not answer");
    }
}
