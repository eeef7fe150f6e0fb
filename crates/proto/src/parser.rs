//! Reads the text form's tokens into a message.

use std::{collections::HashMap, ops::Range, str::FromStr};

use prost_reflect::{Cardinality, DynamicMessage, EnumDescriptor, FieldDescriptor, Kind as FieldKind};
use prost_reflect::{MessageDescriptor, Value, prost::bytes::Bytes};

use crate::lexer::{Kind, Lexer, Mistake, Token, short, split_radix};

/// The message that the whole text is.
pub(crate) fn parse(descriptor: MessageDescriptor, text: &str) -> Result<DynamicMessage, Mistake> {
    Parser::new(text)?.message(descriptor, None)
}

/// A nested message whose bracket is still open.
struct Open {
    field: String,
    name: Range<usize>,
    bracket: Range<usize>,
    close: u8,
}

/// Reads tokens into messages. It calls itself once a level; the schema has no message that holds itself, so the
/// schema bounds the depth, whatever the text says.
struct Parser<'a> {
    lexer: Lexer<'a>,
    next: Token,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Result<Self, Mistake> {
        let mut lexer = Lexer::new(text);
        let next = lexer.next()?;
        Ok(Parser { lexer, next })
    }

    fn advance(&mut self) -> Result<Token, Mistake> {
        let next = self.lexer.next()?;
        Ok(std::mem::replace(&mut self.next, next))
    }

    fn take_symbol(&mut self, symbol: u8) -> Result<bool, Mistake> {
        let is_next = self.next.kind == Kind::Symbol(symbol);
        if is_next {
            self.advance()?;
        }
        Ok(is_next)
    }

    fn written(&self, token: &Token) -> &'a str {
        &self.lexer.text()[token.span.clone()]
    }

    /// The next token in words.
    fn found(&self) -> String {
        match self.next.kind {
            Kind::End => "the end of the file".to_owned(),
            Kind::Quoted(_) => short(self.written(&self.next)),
            _ => format!("\"{}\"", short(self.written(&self.next))),
        }
    }

    fn mistake<T>(&self, fact: impl Into<String>, expected: impl Into<String>) -> Result<T, Mistake> {
        Err(Mistake::new(self.next.span.clone(), fact, expected))
    }

    fn line(&self, offset: usize) -> usize {
        self.lexer.text()[..offset].matches('\n').count() + 1
    }

    /// The fields up to the end of the file, or up to the bracket that closes `open`, the field that holds them.
    fn message(&mut self, descriptor: MessageDescriptor, open: Option<&Open>) -> Result<DynamicMessage, Mistake> {
        let mut message = DynamicMessage::new(descriptor.clone());
        let mut first_uses: HashMap<u32, usize> = HashMap::new();
        loop {
            match (&self.next.kind, open) {
                (Kind::Name, _) => {}
                (Kind::End, None) => break,
                (Kind::Symbol(symbol), Some(open)) if *symbol == open.close => {
                    self.advance()?;
                    break;
                }
                (Kind::End, Some(open)) => {
                    return Err(Mistake::new(
                        open.bracket.clone(),
                        format!("{} is not closed before the end of the file", open.field),
                        format!("expected its \"{}\"", char::from(open.close)),
                    ));
                }
                _ => {
                    let expected = match open {
                        Some(open) => format!(
                            "expected a field of {} or \"{}\"",
                            descriptor.name(),
                            char::from(open.close)
                        ),
                        None => format!("expected a field of {}", descriptor.name()),
                    };
                    return self.mistake(format!("found {}", self.found()), expected);
                }
            }
            let name = self.advance()?;
            let Some(field) = descriptor.get_field_by_name(self.written(&name)) else {
                return Err(unknown_field(&descriptor, self.written(&name), name.span));
            };
            let first_use = *first_uses.entry(field.number()).or_insert(name.span.start);
            if !field.is_list() && first_use != name.span.start {
                return Err(Mistake::new(
                    name.span,
                    format!("{} is given twice", field.name()),
                    format!(
                        "it may be given once and stands in line {} already",
                        self.line(first_use)
                    ),
                ));
            }
            self.field(&field, &name.span, &mut message)?;
            if !self.take_symbol(b',')? {
                self.take_symbol(b';')?;
            }
        }
        let missing = descriptor
            .fields()
            .find(|f| f.cardinality() == Cardinality::Required && !first_uses.contains_key(&f.number()));
        if let Some(missing) = missing {
            let (place, holder) = match open {
                Some(open) => (open.name.clone(), open.field.as_str()),
                None => (0..0, descriptor.name()),
            };
            return Err(Mistake::new(
                place,
                format!("{holder} has no {}", missing.name()),
                format!("expected \"{}: …\" inside it", missing.name()),
            ));
        }
        Ok(message)
    }

    /// What follows a field's name.
    fn field(
        &mut self,
        field: &FieldDescriptor,
        name: &Range<usize>,
        message: &mut DynamicMessage,
    ) -> Result<(), Mistake> {
        let is_message = matches!(field.kind(), FieldKind::Message(_));
        if !self.take_symbol(b':')? && !is_message {
            return self.mistake(
                format!("{} has no colon after it", field.name()),
                format!("expected \"{}: {}\"", field.name(), example(field)),
            );
        }
        if !field.is_list() {
            let value = self.value(field, name)?;
            message.set_field(field, value);
            return Ok(());
        }
        let mut values = Vec::new();
        if !self.take_symbol(b'[')? {
            values.push(self.value(field, name)?);
        } else if !self.take_symbol(b']')? {
            loop {
                values.push(self.value(field, name)?);
                if self.take_symbol(b']')? {
                    break;
                }
                if !self.take_symbol(b',')? {
                    return self.mistake(
                        format!("found {} in the list of {}", self.found(), field.name()),
                        "expected \",\" or \"]\"",
                    );
                }
            }
        }
        if let Some(list) = message.get_field_mut(field).as_list_mut() {
            list.append(&mut values);
        }
        Ok(())
    }

    fn value(&mut self, field: &FieldDescriptor, name: &Range<usize>) -> Result<Value, Mistake> {
        match field.kind() {
            FieldKind::Message(descriptor) => {
                let close = match self.next.kind {
                    Kind::Symbol(b'{') => b'}',
                    Kind::Symbol(b'<') => b'>',
                    _ => return self.mismatch(field),
                };
                let bracket = self.advance()?.span;
                let open = Open {
                    field: field.name().to_owned(),
                    name: name.clone(),
                    bracket,
                    close,
                };
                Ok(Value::Message(self.message(descriptor, Some(&open))?))
            }
            FieldKind::Enum(descriptor) => self.enum_value(field, &descriptor),
            FieldKind::Bool => self.bool_value(field),
            FieldKind::String | FieldKind::Bytes => self.string_value(field),
            FieldKind::Float => Ok(Value::F32(self.float_value(field, f32::is_infinite)?)),
            FieldKind::Double => Ok(Value::F64(self.float_value(field, f64::is_infinite)?)),
            FieldKind::Uint32 | FieldKind::Fixed32 => Ok(Value::U32(self.integer_value(field)?)),
            FieldKind::Uint64 | FieldKind::Fixed64 => Ok(Value::U64(self.integer_value(field)?)),
            FieldKind::Int32 | FieldKind::Sint32 | FieldKind::Sfixed32 => Ok(Value::I32(self.integer_value(field)?)),
            FieldKind::Int64 | FieldKind::Sint64 | FieldKind::Sfixed64 => Ok(Value::I64(self.integer_value(field)?)),
        }
    }

    fn mismatch<T>(&self, field: &FieldDescriptor) -> Result<T, Mistake> {
        self.mistake(
            format!("{} is {}, found {}", field.name(), kind_name(field), self.found()),
            format!("expected a value such as {}", example(field)),
        )
    }

    fn enum_value(&mut self, field: &FieldDescriptor, descriptor: &EnumDescriptor) -> Result<Value, Mistake> {
        let value = match self.next.kind {
            Kind::Name => descriptor.get_value_by_name(self.written(&self.next)),
            Kind::Integer => self
                .written(&self.next)
                .parse()
                .ok()
                .and_then(|n| descriptor.get_value(n)),
            _ => None,
        };
        if let Some(value) = value {
            self.advance()?;
            return Ok(Value::EnumNumber(value.number()));
        }
        let names: Vec<String> = descriptor.values().map(|v| v.name().to_owned()).collect();
        let written = self.written(&self.next).trim_matches(['"', '\'']);
        let expected = match nearest(written, names.iter().map(String::as_str)) {
            Some(name) if name == written => format!("expected {name} without quotes"),
            Some(name) => format!("did you mean \"{name}\"?"),
            None => format!("expected one of {}", names.join(", ")),
        };
        self.mistake(format!("{} has no value {}", field.name(), self.found()), expected)
    }

    fn bool_value(&mut self, field: &FieldDescriptor) -> Result<Value, Mistake> {
        let value = match (&self.next.kind, self.written(&self.next)) {
            (Kind::Name, "true" | "True" | "t") => true,
            (Kind::Name, "false" | "False" | "f") => false,
            (Kind::Integer, "1") => true,
            (Kind::Integer, "0") => false,
            _ => return self.mismatch(field),
        };
        self.advance()?;
        Ok(Value::Bool(value))
    }

    /// One or more quoted strings, which make one value.
    fn string_value(&mut self, field: &FieldDescriptor) -> Result<Value, Mistake> {
        if !matches!(self.next.kind, Kind::Quoted(_)) {
            let expected = match self.next.kind {
                Kind::Name => format!("expected quotes: \"{}\"", self.written(&self.next)),
                _ => "expected a text in quotes".to_owned(),
            };
            return self.mistake(format!("{} is a text, found {}", field.name(), self.found()), expected);
        }
        let start = self.next.span.start;
        let mut end = start;
        let mut value = Vec::new();
        while let Kind::Quoted(bytes) = &mut self.next.kind {
            value.append(bytes);
            end = self.next.span.end;
            self.advance()?;
        }
        if matches!(field.kind(), FieldKind::Bytes) {
            return Ok(Value::Bytes(Bytes::from(value)));
        }
        String::from_utf8(value).map(Value::String).map_err(|_| {
            let fact = format!("the escapes in {} make no UTF-8 text", field.name());
            Mistake::new(start..end, fact, "expected \\u escapes, or the characters themselves")
        })
    }

    fn integer_value<T: TryFrom<i128>>(&mut self, field: &FieldDescriptor) -> Result<T, Mistake> {
        let (negative, number, span) = self.number(field)?;
        if number.kind != Kind::Integer {
            return Err(Mistake::new(
                span,
                format!(
                    "{} is {}, found {}",
                    field.name(),
                    kind_name(field),
                    short(self.written(&number))
                ),
                "expected a number without a fraction",
            ));
        }
        let magnitude =
            split_radix(self.written(&number)).and_then(|(digits, radix)| i128::from_str_radix(digits, radix).ok());
        magnitude
            .and_then(|m| T::try_from(if negative { -m } else { m }).ok())
            .ok_or_else(|| out_of_range(field, &span, kind_name(field)))
    }

    fn float_value<T>(&mut self, field: &FieldDescriptor, is_infinite: fn(T) -> bool) -> Result<T, Mistake>
    where
        T: FromStr + std::ops::Neg<Output = T> + Copy,
    {
        let (negative, number, span) = self.number(field)?;
        let written = self.written(&number);
        let is_decimal = written.len() == 1 || number.kind != Kind::Integer || !written.starts_with('0');
        let digits = match number.kind {
            Kind::Name => written,
            _ => written.trim_end_matches(['f', 'F']),
        };
        let value = match digits.parse::<T>() {
            Ok(value) if is_decimal => value,
            _ => {
                return Err(Mistake::new(
                    span,
                    format!("{} is a number with a fraction, found {}", field.name(), short(written)),
                    "expected a decimal number without leading zeros",
                ));
            }
        };
        if number.kind != Kind::Name && is_infinite(value) {
            return Err(out_of_range(field, &span, "a number from -3.4e+38 to 3.4e+38, or inf"));
        }
        Ok(if negative { -value } else { value })
    }

    /// Whether a minus stands first, the number's token (`inf` and `nan` too if the field takes them), and where both are.
    fn number(&mut self, field: &FieldDescriptor) -> Result<(bool, Token, Range<usize>), Mistake> {
        let start = self.next.span.start;
        let negative = self.take_symbol(b'-')?;
        let is_number = match self.next.kind {
            Kind::Integer | Kind::Float => true,
            Kind::Name if matches!(field.kind(), FieldKind::Float | FieldKind::Double) => {
                ["inf", "infinity", "nan"].contains(&self.written(&self.next).to_ascii_lowercase().as_str())
            }
            _ => false,
        };
        if !is_number {
            return self.mismatch(field);
        }
        let number = self.advance()?;
        let span = start..number.span.end;
        Ok((negative, number, span))
    }
}

fn out_of_range(field: &FieldDescriptor, span: &Range<usize>, limit: &str) -> Mistake {
    Mistake::new(
        span.clone(),
        format!("this number does not fit {}", field.name()),
        format!("expected {limit}"),
    )
}

/// What a field takes, in words.
fn kind_name(field: &FieldDescriptor) -> &'static str {
    match field.kind() {
        FieldKind::Message(_) => "a message",
        FieldKind::Enum(_) => "a name",
        FieldKind::Bool => "true or false",
        FieldKind::String | FieldKind::Bytes => "a text",
        FieldKind::Float | FieldKind::Double => "a number",
        FieldKind::Uint32 | FieldKind::Fixed32 => "a whole number from 0 to 4294967295",
        FieldKind::Uint64 | FieldKind::Fixed64 => "a whole number from 0 to 18446744073709551615",
        FieldKind::Int32 | FieldKind::Sint32 | FieldKind::Sfixed32 => "a whole number from -2147483648 to 2147483647",
        FieldKind::Int64 | FieldKind::Sint64 | FieldKind::Sfixed64 => {
            "a whole number from -9223372036854775808 to 9223372036854775807"
        }
    }
}

/// What a value of the field looks like.
fn example(field: &FieldDescriptor) -> String {
    match field.kind() {
        FieldKind::Message(_) => format!("{} {{ … }}", field.name()),
        FieldKind::Enum(descriptor) => descriptor
            .values()
            .next()
            .map_or(String::new(), |v| v.name().to_owned()),
        FieldKind::Bool => "true".to_owned(),
        FieldKind::String | FieldKind::Bytes => "\"text\"".to_owned(),
        FieldKind::Float | FieldKind::Double => "0.01".to_owned(),
        _ => "1".to_owned(),
    }
}

fn unknown_field(descriptor: &MessageDescriptor, name: &str, span: Range<usize>) -> Mistake {
    /// So many are still a help to read.
    const LISTED: usize = 12;
    let fields: Vec<FieldDescriptor> = descriptor.fields().collect();
    let holders: Vec<&str> = fields
        .iter()
        .filter(|f| matches!(f.kind(), FieldKind::Message(inner) if inner.get_field_by_name(name).is_some()))
        .map(|f| f.name())
        .collect();
    let pool = descriptor.parent_pool();
    let owners: Vec<MessageDescriptor> = pool
        .all_messages()
        .filter(|message| message.get_field_by_name(name).is_some())
        .collect();
    let expected = if let Some(near) = nearest(name, fields.iter().map(FieldDescriptor::name)) {
        format!("did you mean \"{near}\"?")
    } else if !holders.is_empty() && holders.len() <= LISTED {
        format!("it belongs inside {}", holders.join(" or "))
    } else if !owners.is_empty() && owners.len() <= LISTED {
        let names: Vec<&str> = owners.iter().map(MessageDescriptor::name).collect();
        format!("it is a field of {}", names.join(" and "))
    } else if fields.len() <= LISTED {
        let names: Vec<&str> = fields.iter().map(FieldDescriptor::name).collect();
        format!("expected one of {}", names.join(", "))
    } else {
        format!("expected one of the {} fields that caffe.proto names", fields.len())
    };
    Mistake::new(
        span,
        format!("{} has no field \"{}\"", descriptor.name(), short(name)),
        expected,
    )
}

/// The name that was most likely meant, if one is near.
pub(crate) fn nearest<'a>(written: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    /// Longer names than any in the schema are no slips of the pen, and would take long to compare.
    const LONGEST: usize = 64;
    if written.len() > LONGEST {
        return None;
    }
    let written = written.to_ascii_lowercase();
    let allowed = (written.len() / 3).max(1);
    names
        .map(|name| (distance(&written, &name.to_ascii_lowercase()), name))
        .filter(|&(distance, _)| distance <= allowed)
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, name)| name)
}

/// Letters to insert, drop, replace or swap with their neighbour (the optimal string alignment distance).
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                let is_swap = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
                if is_swap {
                    best.min(rows[i - 2][j - 2] + 1)
                } else {
                    best
                }
            };
        }
    }
    rows[a.len()][b.len()]
}
