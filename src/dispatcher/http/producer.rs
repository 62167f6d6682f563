//! Who calls: the owner of the API key in `Authorization: Bearer`.

use super::{Shared, error::ApiError};
use crate::dispatcher::{api_keys::KeyError, store::ApiKey};
use axum::{
    extract::FromRequestParts,
    http::{header::AUTHORIZATION, request::Parts},
};
use std::sync::Arc;

pub struct Producer(pub Arc<ApiKey>);

/// A producer whose key may administer.
pub struct Admin;

impl Producer {
    /// Whether what this one sent is the caller's.
    pub fn owns(&self, producer: Option<String>) -> bool {
        self.0.admin || producer.is_some_and(|producer| producer == self.0.producer)
    }
}

impl FromRequestParts<Shared> for Producer {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Self, ApiError> {
        let header = parts.headers.get(AUTHORIZATION);
        let key = header
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, key)| key.trim())
            .ok_or(KeyError::Unknown)?;
        Ok(Producer(shared.keys.verify(key).await?))
    }
}

impl FromRequestParts<Shared> for Admin {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Self, ApiError> {
        let Producer(key) = Producer::from_request_parts(parts, shared).await?;
        key.admin.then_some(Admin).ok_or_else(ApiError::forbidden)
    }
}
