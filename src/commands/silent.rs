//! What does not answer is said while a person waits for a command.

use std::time::Duration;

use crate::ready;
use crate::roles::Services;

/// A command that ends by then asks nobody.
const BEFORE: Duration = Duration::from_millis(500);
/// How long a service is given: with the time before, it is said within two seconds.
const WITHIN: Duration = Duration::from_millis(1_400);

/// Says once what does not answer. It ends with the process.
pub async fn say(services: Services) {
    tokio::time::sleep(BEFORE).await;
    for service in ready::silent(&services, WITHIN).await {
        eprintln!("freshet: {service} does not answer");
    }
}
