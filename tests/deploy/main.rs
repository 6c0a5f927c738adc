//! What is needed to run freshet elsewhere is true: `freshet setup` prepares what it is pointed at, and says what it
//! may not; `docker-compose.yml` and `Dockerfile` work, as far as that can be seen without Docker.
//!
//! The compose file's services are run here as it says: Kafka, SeaweedFS and every role, with its own commands and
//! variables, on the programs that the local stack uses. What only Docker does (images, networks, volumes, limits) is
//! held to the compose specification and to the rules of this project.

mod compose;
mod contracts;
mod image;
mod parts;
mod services;
mod setup;
mod shipped;
