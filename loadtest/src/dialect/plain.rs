//! A text is a notification, and the path says whose.

/// Where posts to everybody go.
pub const ALL: &str = "all";

/// Of a user's connection below `base`, or of posts to it.
pub fn path(base: &str, user: &str) -> String {
    format!("{}/{user}", base.trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_ends_with_the_user() {
        assert_eq!(path("/sub", "7"), "/sub/7");
        assert_eq!(path("http://h:1/", ALL), "http://h:1/all");
    }
}
