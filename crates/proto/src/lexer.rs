//! Cuts the text form into tokens, as protobuf's own tokenizer does.

use std::ops::Range;

/// A mistake in the text, before it is put in words with file and line.
#[derive(Debug)]
pub(crate) struct Mistake {
    /// The bytes that are wrong.
    pub span: Range<usize>,
    /// What is wrong.
    pub fact: String,
    /// What was expected, or the way out.
    pub expected: String,
}

impl Mistake {
    pub fn new(span: Range<usize>, fact: impl Into<String>, expected: impl Into<String>) -> Self {
        Mistake {
            span,
            fact: fact.into(),
            expected: expected.into(),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kind {
    /// A field's name, an enum's value, true, inf, …
    Name,
    /// Decimal, octal (`017`) or hexadecimal (`0x1f`), without its sign.
    Integer,
    /// With a point, an exponent or the suffix `f`, without its sign.
    Float,
    /// A quoted string's bytes, escapes resolved.
    Quoted(Vec<u8>),
    /// Any other character that has a meaning.
    Symbol(u8),
    End,
}

#[derive(Debug, Clone)]
pub(crate) struct Token {
    pub kind: Kind,
    pub span: Range<usize>,
}

/// Where the next token starts.
pub(crate) struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    pub fn new(text: &'a str) -> Self {
        let byte_order_mark = text.len() - text.trim_start_matches('\u{feff}').len();
        Lexer {
            text,
            at: byte_order_mark,
        }
    }

    pub fn text(&self) -> &'a str {
        self.text
    }

    /// The next token; [`Kind::End`] for ever at the end.
    pub fn next(&mut self) -> Result<Token, Mistake> {
        self.skip_blank();
        let start = self.at;
        let kind = match self.byte(0) {
            None => Kind::End,
            Some(b'a'..=b'z' | b'A'..=b'Z' | b'_') => {
                self.skip_while(is_name_byte);
                Kind::Name
            }
            Some(b'0'..=b'9') => self.number()?,
            Some(b'.') if self.byte(1).is_some_and(|b| b.is_ascii_digit()) => self.number()?,
            Some(quote @ (b'"' | b'\'')) => self.quoted(quote)?,
            Some(symbol @ (b'{' | b'}' | b'<' | b'>' | b'[' | b']' | b':' | b',' | b';' | b'-' | b'.')) => {
                self.at += 1;
                Kind::Symbol(symbol)
            }
            Some(_) => {
                let character = self.text[start..].chars().next().unwrap_or_default();
                return Err(Mistake::new(
                    start..start + character.len_utf8(),
                    format!("the character {character:?} means nothing here"),
                    "expected a field's name, or quotes around a text",
                ));
            }
        };
        Ok(Token {
            kind,
            span: start..self.at,
        })
    }

    fn byte(&self, ahead: usize) -> Option<u8> {
        self.text.as_bytes().get(self.at + ahead).copied()
    }

    fn skip_while(&mut self, holds: impl Fn(u8) -> bool) {
        while self.byte(0).is_some_and(&holds) {
            self.at += 1;
        }
    }

    fn skip_blank(&mut self) {
        loop {
            self.skip_while(|b| matches!(b, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c));
            if self.byte(0) != Some(b'#') {
                return;
            }
            self.skip_while(|b| b != b'\n');
        }
    }

    fn number(&mut self) -> Result<Kind, Mistake> {
        let start = self.at;
        let mut kind = Kind::Integer;
        if self.byte(0) == Some(b'0') && matches!(self.byte(1), Some(b'x' | b'X')) {
            self.at += 2;
            self.skip_while(|b| b.is_ascii_hexdigit());
        } else {
            self.skip_while(|b| b.is_ascii_digit());
            if self.byte(0) == Some(b'.') {
                kind = Kind::Float;
                self.at += 1;
                self.skip_while(|b| b.is_ascii_digit());
            }
            if matches!(self.byte(0), Some(b'e' | b'E')) {
                kind = Kind::Float;
                self.at += 1;
                if matches!(self.byte(0), Some(b'+' | b'-')) {
                    self.at += 1;
                }
                self.skip_while(|b| b.is_ascii_digit());
            }
            if matches!(self.byte(0), Some(b'f' | b'F')) {
                kind = Kind::Float;
                self.at += 1;
            }
        }
        let runs_on = self.byte(0).is_some_and(|b| is_name_byte(b) || b == b'.');
        self.skip_while(|b| is_name_byte(b) || b == b'.');
        let written = &self.text[start..self.at];
        if runs_on || !is_number(written, &kind) {
            return Err(Mistake::new(
                start..self.at,
                format!("\"{}\" is not a number", short(written)),
                "expected a number such as 3, -0.5 or 1e-05, with a space after it",
            ));
        }
        Ok(kind)
    }

    fn quoted(&mut self, quote: u8) -> Result<Kind, Mistake> {
        let start = self.at;
        self.at += 1;
        let mut bytes = Vec::new();
        loop {
            match self.byte(0) {
                None | Some(b'\n') => {
                    return Err(Mistake::new(
                        start..self.at,
                        "this text has no closing quote on its line",
                        format!("expected {} at its end, and \\n for a line break", char::from(quote)),
                    ));
                }
                Some(b'\\') => self.escape(&mut bytes)?,
                Some(byte) => {
                    self.at += 1;
                    if byte == quote {
                        return Ok(Kind::Quoted(bytes));
                    }
                    bytes.push(byte);
                }
            }
        }
    }

    fn escape(&mut self, bytes: &mut Vec<u8>) -> Result<(), Mistake> {
        let start = self.at;
        self.at += 1;
        let Some(letter) = self.byte(0) else {
            return Ok(()); // The caller finds that the text ends within its quotes.
        };
        let simple = match letter {
            b'n' => Some(b'\n'),
            b'r' => Some(b'\r'),
            b't' => Some(b'\t'),
            b'a' => Some(0x07),
            b'b' => Some(0x08),
            b'f' => Some(0x0c),
            b'v' => Some(0x0b),
            b'\\' | b'\'' | b'"' | b'?' => Some(letter),
            _ => None,
        };
        if let Some(byte) = simple {
            self.at += 1;
            bytes.push(byte);
            return Ok(());
        }
        let code = match letter {
            b'0'..=b'7' => self.digits(3, 8),
            b'x' | b'X' => {
                self.at += 1;
                self.digits(2, 16)
            }
            b'u' | b'U' => {
                self.at += 1;
                self.digits(if letter == b'u' { 4 } else { 8 }, 16)
            }
            _ => None,
        };
        let is_byte = !matches!(letter, b'u' | b'U');
        match code {
            Some(code) if is_byte && code <= 0xff => bytes.push(code as u8),
            Some(code) if !is_byte && char::from_u32(code).is_some() => {
                let character = char::from_u32(code).unwrap_or_default();
                bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            }
            _ => {
                let end = self.at.max(start + 1 + char_length(&self.text[start + 1..]));
                return Err(Mistake::new(
                    start..end,
                    format!("\"{}\" is not an escape", &self.text[start..end]),
                    r#"expected \n, \t, \", \\, an octal \101 or a hexadecimal \x41; write \\ for a backslash"#,
                ));
            }
        }
        Ok(())
    }

    /// Up to `most` digits as a number; nothing if there is not even one.
    fn digits(&mut self, most: usize, radix: u32) -> Option<u32> {
        let mut code = None;
        for _ in 0..most {
            let Some(digit) = self.byte(0).and_then(|b| char::from(b).to_digit(radix)) else {
                break;
            };
            code = Some(code.unwrap_or(0) * radix + digit);
            self.at += 1;
        }
        code
    }
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn char_length(text: &str) -> usize {
    text.chars().next().map_or(0, char::len_utf8)
}

fn is_number(written: &str, kind: &Kind) -> bool {
    match kind {
        Kind::Float => written.trim_end_matches(['f', 'F']).parse::<f64>().is_ok(),
        _ => split_radix(written).is_some_and(|(digits, radix)| digits.chars().all(|d| d.is_digit(radix))),
    }
}

/// The digits of an integer and the base that its prefix says; `None` if there is no digit.
pub(crate) fn split_radix(written: &str) -> Option<(&str, u32)> {
    let (digits, radix) = match written.strip_prefix("0x").or_else(|| written.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if written.len() > 1 && written.starts_with('0') => (&written[1..], 8),
        None => (written, 10),
    };
    (!digits.is_empty()).then_some((digits, radix))
}

/// What the user wrote, cut so that it fits a line of a message.
pub(crate) fn short(written: &str) -> String {
    const MOST: usize = 40;
    match written.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &written[..end]),
        None => written.to_owned(),
    }
}
