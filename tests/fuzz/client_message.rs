use super::{Damage, fuzz};
use herald::proto::client::{cursors, parse};
use proptest::prelude::*;
use serde_json::value::RawValue;
use std::collections::HashMap;

/// JSON that is nearly what a client says.
fn messages() -> impl Strategy<Value = String> {
    let kind = prop_oneof![
        Just("auth"),
        Just("ack"),
        Just("read"),
        Just("sync"),
        Just("ping"),
        Just("other"),
    ];
    let id = "0192[0-9a-f]{4}-[0-9a-f]{4}-7[0-9a-f]{3}-8[0-9a-f]{3}-[0-9a-f]{12}";
    let value = prop_oneof![
        Just("null".to_owned()),
        Just("{}".to_owned()),
        "-?[0-9]{1,20}",
        "\"[a-z\\\\\"u0-9]{0,8}\"",
        prop::collection::vec(id, 0..4).prop_map(|ids| format!("{ids:?}")),
        prop::collection::vec(("(user|all):[a-z]{1,5}", any::<u64>()), 0..10).prop_map(|pairs| {
            let pairs: Vec<_> = pairs
                .iter()
                .map(|(name, at)| format!("{name:?}:{at}"))
                .collect();
            format!("{{{}}}", pairs.join(","))
        }),
    ];
    let name = prop_oneof![
        Just("token"),
        Just("ids"),
        Just("cursors"),
        Just("limit"),
        Just("type"),
        Just("more"),
    ];
    let fields = prop::collection::vec((name, value), 0..4);
    (kind, fields).prop_map(|(kind, fields)| {
        let fields: String = fields
            .iter()
            .map(|(name, value)| format!(",{name:?}:{value}"))
            .collect();
        format!("{{\"type\":{kind:?}{fields}}}")
    })
}

#[test]
fn a_client_message_is_taken_or_refused_and_nothing_else() {
    let inputs = prop_oneof![
        4 => (messages(), Damage::any()).prop_map(|(text, damage)| damage.apply(text.into())),
        1 => prop::collection::vec(any::<u8>(), 0..200),
    ];
    fuzz(inputs, |bytes| {
        let text = String::from_utf8_lossy(&bytes);
        if parse(&text).is_ok() {
            // Raw, for numbers too big for anything are no concern of a field that is ignored.
            let object = serde_json::from_str::<HashMap<String, &RawValue>>(&text);
            prop_assert!(object.is_ok());
        }
        Ok(())
    });
}

#[test]
fn cursors_that_are_taken_are_written_back_as_they_came() {
    let inputs = prop_oneof![
        prop::collection::btree_map("(user|all):[a-z0-9-]{1,5}", any::<u64>(), 0..10).prop_map(
            |pairs| {
                let pairs: Vec<_> = pairs
                    .iter()
                    .map(|(name, at)| format!("{name}={at}"))
                    .collect();
                pairs.join(",")
            }
        ),
        "[a-z:=,0-9]{0,30}",
    ];
    fuzz(inputs, |text| {
        if let Ok(parsed) = cursors::from_text(&text) {
            let written = cursors::to_text(&parsed);
            prop_assert_eq!(cursors::from_text(&written), Ok(parsed));
        }
        Ok(())
    });
}
