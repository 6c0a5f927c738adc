//! Writes an object: in one request, or in parts if it is large, and only if its condition holds.

use std::collections::BTreeMap;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};

use super::error::{detail, says_refused, status};
use super::{Condition, OutputError, Put, Spooled, Store};

/// Larger bodies are sent in parts of this size, one after the other; S3 allows 10,000 parts: 156 GiB.
const PART_BYTES: u64 = 16 * 1024 * 1024;

impl Store {
    /// Writes an object with that metadata, in parts if it is large.
    pub(super) async fn put_with(
        &self,
        key: &str,
        body: &Spooled,
        content_type: &str,
        condition: Condition,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Put, OutputError> {
        if body.len() > PART_BYTES {
            return self.put_parts(key, body, content_type, condition, metadata).await;
        }
        let mut request = self.client.put_object().bucket(&self.bucket).key(key).content_type(content_type);
        for (name, value) in metadata {
            request = request.metadata(name, value);
        }
        let request = match &condition {
            Condition::Always => request,
            Condition::Absent => request.if_none_match("*"),
            Condition::Unchanged(etag) => request.if_match(etag),
        };
        let sent = request.body(self.stream(key, body, 0, body.len()).await?).send().await;
        self.written("put", key, &condition, sent)
    }

    /// The completion has the condition: only then the object is created.
    async fn put_parts(
        &self,
        key: &str,
        body: &Spooled,
        content_type: &str,
        condition: Condition,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Put, OutputError> {
        let mut request = self.client.create_multipart_upload().bucket(&self.bucket).key(key);
        for (name, value) in metadata {
            request = request.metadata(name, value);
        }
        let created = request.content_type(content_type).send().await;
        let created = created.map_err(|error| self.failed("start upload of", key, &error))?;
        let upload = created.upload_id().unwrap_or_default().to_owned();
        let put = self.finish_parts(key, body, &condition, &upload).await;
        if !matches!(put, Ok(Put::Written)) {
            // Best effort: parts left behind cost storage until a lifecycle rule, such as that of setup, removes them.
            let abort = self.client.abort_multipart_upload().bucket(&self.bucket).key(key).upload_id(&upload);
            if let Err(error) = abort.send().await {
                tracing::debug!(error = detail(&error), key, "abort upload");
            }
        }
        put
    }

    /// Sends the parts and completes the upload, if the condition holds.
    pub(super) async fn finish_parts(
        &self,
        key: &str,
        body: &Spooled,
        condition: &Condition,
        upload: &str,
    ) -> Result<Put, OutputError> {
        let mut parts = Vec::new();
        for (number, offset) in (1..).zip((0..body.len()).step_by(PART_BYTES as usize)) {
            let length = PART_BYTES.min(body.len() - offset);
            let request = self.client.upload_part().bucket(&self.bucket).key(key).upload_id(upload).part_number(number);
            let sent = request.body(self.stream(key, body, offset, length).await?).send().await;
            let sent = sent.map_err(|error| self.failed("put part of", key, &error))?;
            parts.push(CompletedPart::builder().part_number(number).set_e_tag(sent.e_tag).build());
        }
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let request = self.client.complete_multipart_upload().bucket(&self.bucket).key(key).upload_id(upload);
        let request = match condition {
            Condition::Always => request,
            Condition::Absent => request.if_none_match("*"),
            Condition::Unchanged(etag) => request.if_match(etag),
        };
        self.written("complete", key, condition, request.multipart_upload(parts).send().await)
    }

    fn written<T, E>(
        &self,
        action: &'static str,
        key: &str,
        condition: &Condition,
        sent: Result<T, SdkError<E, HttpResponse>>,
    ) -> Result<Put, OutputError>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let Err(error) = sent else { return Ok(Put::Written) };
        let refused = match condition {
            Condition::Always => false,
            Condition::Absent => says_refused(status(&error), error.code(), false),
            Condition::Unchanged(_) => says_refused(status(&error), error.code(), true),
        };
        match refused {
            true => Ok(Put::Refused),
            false => Err(self.failed(action, key, &error)),
        }
    }

    async fn stream(&self, key: &str, body: &Spooled, offset: u64, length: u64) -> Result<ByteStream, OutputError> {
        body.stream(offset, length).await.map_err(|error| self.content(key, error.to_string()))
    }
}
