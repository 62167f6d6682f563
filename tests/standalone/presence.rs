//! Who is connected, and who is sent away.

use super::events_until;
use reqwest::Method;
use serde_json::{Value, json};
use testbed::{Client, Standalone};

async fn call(herald: &Standalone, method: Method, path: &str) -> (u16, Value) {
    let request = reqwest::Client::new().request(method, herald.api.url(path));
    let answer = request.bearer_auth(herald.api_key()).send().await.unwrap();
    let status = answer.status().as_u16();
    (status, answer.json().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_is_sent_away_is_told_not_to_come_back_and_the_others_stay() {
    let herald = Standalone::start(&[]).await;
    let other = Client::start(vec![herald.ws_url()], herald.token("43"));
    let nobody = call(&herald, Method::GET, "/v1/users/42/presence").await;
    assert_eq!(
        nobody,
        (
            200,
            json!({ "user": "42", "connected": false, "gateways": [] })
        )
    );
    let (status, answer) = call(&herald, Method::POST, "/v1/users/42/disconnect").await;
    assert_eq!((status, &answer["gateways"]), (202, &json!([])));

    let leaving = async {
        let is_present = async |user: &str| {
            let path = format!("/v1/users/{user}/presence");
            let (status, presence) = call(&herald, Method::GET, &path).await;
            assert_eq!(status, 200, "{presence}");
            presence["connected"] == true && presence["gateways"][0]["live"] == true
        };
        herald
            .eventually("both are present", async || {
                is_present("42").await && is_present("43").await
            })
            .await;
        let (status, answer) = call(&herald, Method::POST, "/v1/users/42/disconnect").await;
        assert_eq!(status, 202, "{answer}");
        assert_eq!(answer["gateways"][0]["gateway"], "gw-1");
    };
    let told = ["event: close", "4510", "\"come_back\":false"];
    let ((text, _), ()) = tokio::join!(events_until(&herald, None, &told), leaving);
    assert!(text.contains("by an operator"), "{text}");
    assert!(other.is_open());
    herald
        .eventually("the user is gone", async || {
            let path = "/v1/users/42/presence";
            call(&herald, Method::GET, path).await.1["connected"] == false
        })
        .await;
}
