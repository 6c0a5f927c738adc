//! The event queue, its dead letters, its policy, and the bucket's notification that fills it.
//!
//! Existing statements of the policy and notifications of the bucket are kept. A step that is not allowed is reported
//! with what to do by hand; the listener starts anyway, and finds files by listing.

use aws_sdk_s3::error::BuildError;
use aws_sdk_s3::types::{Event, NotificationConfiguration, QueueConfiguration};
use aws_sdk_sqs::Client;
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::types::QueueAttributeName as Attribute;
use freshet_ingest::settings::EventSettings;
use freshet_sinks::sqs;
use serde_json::{Value, json};

use super::{Finding, Mode, Standing};
use crate::ready;
use crate::roles::Services;

/// Name of what freshet adds to the policy and to the bucket's notifications.
const OURS: &str = "freshet-events";
/// How long dead letters are kept, in seconds: 14 days, the longest that SQS keeps.
const DEAD_KEPT_S: &str = "1209600";

/// Nothing where no queue is set.
pub(super) async fn prepare(services: &Services, mode: Mode) -> Vec<Finding> {
    let settings = &services.config.ingest.events;
    let Some(name) = settings.queue_name() else { return Vec::new() };
    let client = sqs::client(&services.config.s3, &settings.endpoint, &settings.region).await;
    let bucket = &services.config.s3.raw_bucket;
    let wanted = Wanted { client: &client, settings, name, bucket, mode };
    let (queue, arn) = match wanted.queue().await {
        Ok((finding, arn)) => (finding, arn),
        Err(finding) => return vec![finding],
    };
    // A queue that would be made has no address to send to yet.
    let Some(arn) = arn else { return vec![queue] };
    vec![queue, wanted.notification(&services.s3, &arn).await]
}

struct Wanted<'a> {
    client: &'a Client,
    settings: &'a EventSettings,
    name: &'a str,
    bucket: &'a str,
    mode: Mode,
}

impl Wanted<'_> {
    fn dead_name(&self) -> String {
        format!("{}-dead", self.name)
    }

    fn finding(&self, standing: Standing, said: impl Into<String>) -> Finding {
        Finding::new("queue", self.name, standing, said)
    }

    /// The queue with its dead letters and its policy, and its ARN unless it would be made.
    async fn queue(&self) -> Result<(Finding, Option<String>), Finding> {
        let made = match self.attributes(&self.settings.queue_url).await {
            Ok(_) => false,
            Err(Refusal { is_absent: true, .. }) if self.mode == Mode::Plan => {
                let said = format!("would be created, with {} for its dead letters", self.dead_name());
                return Ok((self.finding(Standing::Would, said), None));
            }
            Err(Refusal { is_absent: true, .. }) => self.make().await.map(|()| true)?,
            Err(refusal) => return Err(self.differs("look at it", "sqs:GetQueueAttributes", &refusal)),
        };
        let attributes = self.attributes(&self.settings.queue_url).await;
        let found = attributes.map_err(|refusal| self.differs("look at it", "sqs:GetQueueAttributes", &refusal))?;
        let policy = policy(found.policy.as_deref(), &found.arn, self.bucket)
            .map_err(|error| self.finding(Standing::Differs, format!("its policy cannot be read ({error})")))?;
        let mut wanted = Vec::new();
        if let Some(policy) = policy {
            wanted.push((Attribute::Policy, policy.to_string(), "allow the bucket to send"));
        }
        if found.redrive.is_none() {
            wanted.push((Attribute::RedrivePolicy, String::new(), "add a dead-letter queue"));
        }
        let steps: Vec<String> = wanted.iter().map(|(_, _, step)| (*step).to_owned()).collect();
        let there = if made { "created" } else { "found" };
        if wanted.is_empty() {
            let standing = if made { Standing::Made } else { Standing::Found };
            return Ok((
                self.finding(standing, format!("{there}, the bucket may send, has a dead-letter queue")),
                Some(found.arn),
            ));
        }
        if self.mode == Mode::Plan {
            let finding = self.finding(Standing::Would, "found, would be changed").with(steps);
            return Ok((finding, Some(found.arn)));
        }
        for (attribute, value, _) in wanted {
            let value = match attribute {
                Attribute::RedrivePolicy => self.redrive().await?,
                _ => value,
            };
            if let Err(refusal) = self.set(&attribute, value.clone()).await {
                let by_hand = format!("by hand, set its attribute {}: {value}", attribute.as_str());
                return Err(self.differs("set its attributes", "sqs:SetQueueAttributes", &refusal).with([by_hand]));
            }
        }
        Ok((self.finding(Standing::Made, format!("{there}, and changed")).with(steps), Some(found.arn)))
    }

    fn differs(&self, what: &str, permission: &str, refusal: &Refusal) -> Finding {
        let said = match refusal.is_denied {
            true => format!("may not {what} ({}: needs {permission})", refusal.said),
            false => format!("cannot {what} ({})", refusal.said),
        };
        self.finding(Standing::Differs, said)
    }

    async fn make(&self) -> Result<(), Finding> {
        let answer = self.client.create_queue().queue_name(self.name).send().await;
        let made = answer.map_err(|error| {
            let by_hand = format!("by hand, create the queue {} and run this again", self.name);
            self.differs("make it", "sqs:CreateQueue", &Refusal::of(&error)).with([by_hand])
        })?;
        match made.queue_url {
            Some(url) if url != self.settings.queue_url => {
                let said = format!("created, but at another address: set ingest.events.queue_url = \"{url}\"");
                Err(self.finding(Standing::Differs, said))
            }
            _ => Ok(()),
        }
    }

    /// Makes the queue of the dead letters; gives the attribute that names it.
    async fn redrive(&self) -> Result<String, Finding> {
        let name = self.dead_name();
        let request = self.client.create_queue().queue_name(&name);
        let made = request.attributes(Attribute::MessageRetentionPeriod, DEAD_KEPT_S).send().await;
        let url = match made {
            Ok(made) => made.queue_url.unwrap_or_default(),
            // It is there with other attributes.
            Err(error) if error.code().is_some_and(|code| code.contains("QueueNameExists")) => {
                let found = self.client.get_queue_url().queue_name(&name).send().await;
                found.ok().and_then(|found| found.queue_url).unwrap_or_default()
            }
            Err(error) => {
                let by_hand = format!("by hand, create the queue {name} and run this again");
                let what = "create its dead-letter queue";
                return Err(self.differs(what, "sqs:CreateQueue", &Refusal::of(&error)).with([by_hand]));
            }
        };
        let found = self.attributes(&url).await;
        let arn = found
            .map_err(|refusal| self.differs("look at its dead-letter queue", "sqs:GetQueueAttributes", &refusal))?
            .arn;
        Ok(json!({"deadLetterTargetArn": arn, "maxReceiveCount": self.settings.receives_max}).to_string())
    }

    async fn attributes(&self, url: &str) -> Result<Found, Refusal> {
        let request = self.client.get_queue_attributes().queue_url(url).attribute_names(Attribute::All);
        let answer = request.send().await.map_err(|error| Refusal::of(&error))?;
        let attributes = answer.attributes.unwrap_or_default();
        let of = |name: &Attribute| attributes.get(name).filter(|value| !value.is_empty()).cloned();
        Ok(Found {
            arn: of(&Attribute::QueueArn).unwrap_or_default(),
            policy: of(&Attribute::Policy),
            redrive: of(&Attribute::RedrivePolicy),
        })
    }

    async fn set(&self, attribute: &Attribute, value: String) -> Result<(), Refusal> {
        let request = self.client.set_queue_attributes().queue_url(&self.settings.queue_url);
        request.attributes(attribute.clone(), value).send().await.map(|_| ()).map_err(|error| Refusal::of(&error))
    }

    /// The bucket notifies the queue of every new object; its other notifications are kept.
    async fn notification(&self, s3: &aws_sdk_s3::Client, arn: &str) -> Finding {
        let name = format!("s3://{}", self.bucket);
        let finding = |standing, said: String| Finding::new("notification", &name, standing, said);
        let refused = |what: &str, permission: &str, error: &dyn std::error::Error| {
            let said = format!("cannot {what} ({}; needs {permission})", ready::cause_of(error));
            let by_hand = json!({"Id": OURS, "QueueArn": arn, "Events": ["s3:ObjectCreated:*"]});
            let by_hand = format!("by hand, add to the bucket's QueueConfigurations: {by_hand}");
            finding(Standing::Differs, said).with([by_hand])
        };
        let found = match s3.get_bucket_notification_configuration().bucket(self.bucket).send().await {
            Ok(found) => found,
            Err(error) => return refused("read it", "s3:GetBucketNotification", &error),
        };
        let queues = found.queue_configurations.unwrap_or_default();
        if queues.iter().any(|it| it.queue_arn == arn && it.filter.is_none() && tells_of_all(&it.events)) {
            return finding(Standing::Found, format!("found, notifies {}", self.name));
        }
        if self.mode == Mode::Plan {
            return finding(Standing::Would, format!("would notify {} of every new object", self.name));
        }
        let queues = match with_ours(queues, arn) {
            Ok(queues) => queues,
            Err(error) => return refused("write it", "s3:PutBucketNotification", &error),
        };
        let merged = NotificationConfiguration::builder()
            .set_queue_configurations(Some(queues))
            .set_topic_configurations(found.topic_configurations)
            .set_lambda_function_configurations(found.lambda_function_configurations)
            .set_event_bridge_configuration(found.event_bridge_configuration)
            .build();
        let request = s3.put_bucket_notification_configuration().bucket(self.bucket);
        match request.notification_configuration(merged).send().await {
            Ok(_) => finding(Standing::Made, format!("notifies {} of every new object", self.name)),
            Err(error) => refused("write it", "s3:PutBucketNotification", &error),
        }
    }
}

fn tells_of_all(events: &[Event]) -> bool {
    events.iter().any(|event| event.as_str() == "s3:ObjectCreated:*")
}

/// The notifications of a bucket with ours, which tells the queue of that ARN.
fn with_ours(mut queues: Vec<QueueConfiguration>, arn: &str) -> Result<Vec<QueueConfiguration>, BuildError> {
    let ours =
        QueueConfiguration::builder().id(OURS).queue_arn(arn).events(Event::from("s3:ObjectCreated:*")).build()?;
    // An older one of ours names another queue, and S3 takes neither two of a name nor two for the same events.
    queues.retain(|queue| queue.id() != Some(OURS));
    queues.push(ours);
    Ok(queues)
}

/// The attributes of a queue.
struct Found {
    arn: String,
    policy: Option<String>,
    redrive: Option<String>,
}

/// Why a request failed.
struct Refusal {
    is_absent: bool,
    is_denied: bool,
    said: String,
}

impl Refusal {
    fn of<E>(error: &SdkError<E>) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let code = error.code().unwrap_or_default();
        let status = error.raw_response().map(|response| response.status().as_u16());
        Refusal {
            is_absent: code.contains("NonExistentQueue") || code.contains("QueueDoesNotExist"),
            is_denied: matches!(status, Some(401 | 403)) || code.contains("AccessDenied"),
            said: match status {
                Some(status) => format!("{status} {code}: {}", error.message().unwrap_or_default()),
                None => ready::cause_of(error),
            },
        }
    }
}

/// The policy by which the bucket may send, beside what is in it already; `None` where it says so.
///
/// # Errors
/// If the existing policy is not JSON.
fn policy(found: Option<&str>, queue_arn: &str, bucket: &str) -> Result<Option<Value>, serde_json::Error> {
    let ours = json!({
        "Sid": OURS,
        "Effect": "Allow",
        "Principal": {"Service": "s3.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": queue_arn,
        "Condition": {"ArnLike": {"aws:SourceArn": format!("arn:aws:s3:::{bucket}")}},
    });
    let mut policy: Value = match found {
        Some(text) => serde_json::from_str(text)?,
        None => json!({"Version": "2012-10-17", "Statement": []}),
    };
    let mut statements = match policy.get("Statement").cloned() {
        Some(Value::Array(statements)) => statements,
        Some(one) => vec![one],
        None => Vec::new(),
    };
    if statements.contains(&ours) {
        return Ok(None);
    }
    // An older one of ours names another bucket.
    statements.retain(|statement| statement.get("Sid").is_none_or(|sid| sid != OURS));
    statements.push(ours);
    if let Some(policy) = policy.as_object_mut() {
        policy.insert("Statement".into(), Value::Array(statements));
    }
    Ok(Some(policy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_of_others_stays_and_ours_is_added_once() {
        const ARN: &str = "arn:aws:sqs:eu-west-1:1:events";
        let theirs = r#"{"Version":"2012-10-17","Id":"x","Statement":{"Sid":"theirs","Effect":"Deny"}}"#;
        let made = policy(Some(theirs), ARN, "raw").expect("JSON").expect("added");
        let sids: Vec<&Value> = made["Statement"].as_array().expect("a list").iter().map(|it| &it["Sid"]).collect();
        assert_eq!(sids, ["theirs", OURS]);
        assert_eq!(made["Id"], "x");
        assert_eq!(policy(Some(&made.to_string()), ARN, "raw").expect("JSON"), None);
        let other = policy(Some(&made.to_string()), ARN, "other").expect("JSON").expect("another bucket");
        assert_eq!(other["Statement"].as_array().expect("a list").len(), 2);
        assert_eq!(other["Statement"][1]["Condition"]["ArnLike"]["aws:SourceArn"], "arn:aws:s3:::other");
        assert!(policy(Some("nonsense"), ARN, "raw").is_err());
        assert!(policy(None, ARN, "raw").expect("JSON").is_some());
    }

    #[test]
    fn a_bucket_that_notified_another_queue_of_ours_notifies_the_new_one_instead() {
        let theirs =
            QueueConfiguration::builder().id("theirs").queue_arn("c").events(Event::from("s3:ObjectRemoved:*"));
        let theirs = theirs.build().expect("complete");
        let first = with_ours(vec![theirs], "a").expect("complete");
        let second = with_ours(first.clone(), "b").expect("complete");
        let named = |queues: &[QueueConfiguration]| -> Vec<_> {
            queues.iter().map(|queue| (queue.id().map(str::to_owned), queue.queue_arn.clone())).collect()
        };
        let of = |id: &str, arn: &str| (Some(id.to_owned()), arn.to_owned());
        assert_eq!(named(&first), [of("theirs", "c"), of(OURS, "a")]);
        assert_eq!(named(&second), [of("theirs", "c"), of(OURS, "b")]);
    }
}
