//! How many parts a text message is sent in, which is what it is paid by (3GPP TS 23.038 and 23.040).
//!
//! A text of GSM's own alphabet has 7 bits a character, and what stands in its extension table takes two of them; one
//! character beyond makes the whole text UCS-2, 16 bits each. Of several parts each has a header, and what is one
//! character is never divided between two.

/// Units that one part has room for: alone, and among several.
struct Room {
    alone: usize,
    of_several: usize,
}

const GSM_7: Room = Room {
    alone: 160,
    of_several: 153,
};
const UCS_2: Room = Room {
    alone: 70,
    of_several: 67,
};

/// The alphabet of GSM, without its escape.
const BASIC: &str = "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?\
                     ¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà";
/// What takes an escape before it.
const EXTENSION: &str = "\u{c}^{}\\[~]|€";

/// At least one.
pub fn segments(text: &str) -> u32 {
    match text.chars().map(septets).collect::<Option<Vec<usize>>>() {
        Some(septets) => parts(&GSM_7, &septets),
        None => {
            let units: Vec<usize> = text.chars().map(char::len_utf16).collect();
            parts(&UCS_2, &units)
        }
    }
}

fn septets(character: char) -> Option<usize> {
    if BASIC.contains(character) {
        return Some(1);
    }
    EXTENSION.contains(character).then_some(2)
}

/// `units` of each character, in their order.
fn parts(room: &Room, units: &[usize]) -> u32 {
    if units.iter().sum::<usize>() <= room.alone {
        return 1;
    }
    let (mut parts, mut used) = (1, 0);
    for units in units {
        if used + units > room.of_several {
            parts += 1;
            used = 0;
        }
        used += units;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_of_gsm_has_160_characters_alone_and_153_in_each_of_several_parts() {
        for (characters, parts) in [(0, 1), (1, 1), (160, 1), (161, 2), (306, 2), (307, 3)] {
            assert_eq!(segments(&"a".repeat(characters)), parts, "{characters}");
            assert_eq!(segments(&"ü".repeat(characters)), parts, "{characters}");
        }
    }

    #[test]
    fn one_character_beyond_makes_it_70_and_67() {
        let with = |others: usize| format!("ł{}", "a".repeat(others));
        for (others, parts) in [(0, 1), (69, 1), (70, 2), (133, 2), (134, 3)] {
            assert_eq!(segments(&with(others)), parts, "{others}");
        }
        for text in ["`", "ç", "“", "\t"] {
            assert_eq!(segments(&text.repeat(71)), 2, "{text}");
        }
    }

    #[test]
    fn what_stands_in_the_extension_table_takes_two_and_is_not_divided() {
        assert_eq!(segments(&"€".repeat(80)), 1);
        assert_eq!(segments(&"€".repeat(81)), 2);
        // 76 of them fill 152 of 153.
        assert_eq!(segments(&"€".repeat(152)), 2);
        assert_eq!(segments(&"€".repeat(153)), 3);
        assert_eq!(segments(&format!("{}a", "[]{}^~|\\".repeat(20))), 3);
    }

    #[test]
    fn a_character_of_two_units_is_not_divided_either() {
        assert_eq!(segments(&"😀".repeat(35)), 1);
        assert_eq!(segments(&"😀".repeat(36)), 2);
        // 33 of them fill 66 of 67.
        assert_eq!(segments(&"😀".repeat(66)), 2);
        assert_eq!(segments(&"😀".repeat(67)), 3);
    }

    #[test]
    fn the_alphabet_has_the_127_characters_beside_its_escape() {
        let mut characters: Vec<char> = BASIC.chars().collect();
        characters.sort_unstable();
        characters.dedup();
        assert_eq!(characters.len(), 127);
        assert_eq!(EXTENSION.chars().count(), 10);
    }
}
