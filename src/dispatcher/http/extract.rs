//! What the paths take from a request. Whatever is wrong with it is answered in the one shape of an error.

use super::{Shared, error::ApiError};
use crate::{dispatcher::intake::request::Refusal, limits};
use axum::{
    body::Bytes,
    extract::{
        FromRequest, FromRequestParts, Path, Query, Request,
        rejection::{BytesRejection, FailedToBufferBody},
    },
    http::request::Parts,
};
use serde::de::DeserializeOwned;

/// The one parameter of a path, percent-decoded.
pub struct PathText(pub String);

impl FromRequestParts<Shared> for PathText {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Self, ApiError> {
        match Path::from_request_parts(parts, shared).await {
            Ok(Path(text)) => Ok(PathText(text)),
            Err(rejection) => Err(ApiError::bad_target(rejection.body_text())),
        }
    }
}

/// The two parameters of a path, percent-decoded.
pub struct PathPair(pub String, pub String);

impl FromRequestParts<Shared> for PathPair {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Self, ApiError> {
        match Path::from_request_parts(parts, shared).await {
            Ok(Path((first, second))) => Ok(PathPair(first, second)),
            Err(rejection) => Err(ApiError::bad_target(rejection.body_text())),
        }
    }
}

/// The three parameters of a path, percent-decoded.
pub struct PathThree(pub String, pub String, pub String);

impl FromRequestParts<Shared> for PathThree {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Self, ApiError> {
        match Path::from_request_parts(parts, shared).await {
            Ok(Path((first, second, third))) => Ok(PathThree(first, second, third)),
            Err(rejection) => Err(ApiError::bad_target(rejection.body_text())),
        }
    }
}

/// The query as the fields of `T`.
pub struct QueryPairs<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<Shared> for QueryPairs<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Self, ApiError> {
        match Query::from_request_parts(parts, shared).await {
            Ok(Query(fields)) => Ok(QueryPairs(fields)),
            Err(rejection) => Err(ApiError::bad_target(rejection.body_text())),
        }
    }
}

/// `limit` of a page.
pub fn parse_limit(text: Option<&str>, default: usize) -> Result<usize, Refusal> {
    let most = limits::PAGE_ITEMS;
    match text.map(str::parse) {
        None => Ok(default),
        Some(Ok(limit)) if (1..=most).contains(&limit) => Ok(limit),
        Some(_) => Err(Refusal::field("limit", format!("is 1 to {most}"))),
    }
}

/// The body, within the path's limit.
pub struct Whole(pub Bytes);

impl FromRequest<Shared> for Whole {
    type Rejection = ApiError;

    async fn from_request(request: Request, shared: &Shared) -> Result<Self, ApiError> {
        match Bytes::from_request(request, shared).await {
            Ok(bytes) => Ok(Whole(bytes)),
            Err(rejection) => Err(unread(rejection, "is larger than this path takes").into()),
        }
    }
}

/// Why a body was not read to its end.
pub fn unread(rejection: BytesRejection, too_large: impl Into<String>) -> Refusal {
    match rejection {
        BytesRejection::FailedToBufferBody(FailedToBufferBody::LengthLimitError(_)) => {
            Refusal::TooLarge {
                field: "body".into(),
                problem: too_large.into(),
            }
        }
        rejection => Refusal::BadBody(rejection.body_text()),
    }
}
