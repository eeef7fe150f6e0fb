//! Whatever the readers are given, they answer: with a message that reads back as itself, or with an error.
//!
//! `SPARKNET_FUZZ_SECONDS=60 cargo test -p sparknet-proto fuzz` tries new inputs for a minute each; without the variable
//! the same few are tried every time.

use std::time::{Duration, Instant};
use std::{env, fs, path::Path};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseResult, TestRng, TestRunner};
use prost::{Message, Name};
use prost_reflect::{Cardinality, DescriptorPool, DynamicMessage, Kind, MessageDescriptor, Value};
use sparknet_proto::caffe::{BlobProtoVector, Datum, NetParameter, SolverParameter, SolverState};
use sparknet_proto::{binary, text, upgrade};

/// Runs `test` on inputs of `strategy` until the time is over.
fn fuzz<S: Strategy>(strategy: &S, test: impl Fn(S::Value) -> TestCaseResult) {
    const CASES: u32 = 64;
    let config = Config {
        cases: CASES,
        failure_persistence: None,
        ..Config::default()
    };
    let seconds: Option<f64> = env::var("SPARKNET_FUZZ_SECONDS").ok().map(|s| s.parse().unwrap());
    let mut runner = match seconds {
        Some(_) => TestRunner::new(config),
        None => TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha)),
    };
    let end = Instant::now() + Duration::from_secs_f64(seconds.unwrap_or(1.0));
    loop {
        runner
            .run(strategy, &test)
            .unwrap_or_else(|failure| panic!("{failure}"));
        if Instant::now() >= end {
            return;
        }
    }
}

/// The upgrade folder's files, which together use most of the syntax.
fn valid_texts() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/upgrade");
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.filter(|path| path.is_file()).collect();
    files.sort();
    files.iter().map(|file| fs::read_to_string(file).unwrap()).collect()
}

/// Changes of single places: a byte in place of another, a byte cut, a stretch doubled, or the end cut off.
fn mutated(valid: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let change = (0..4, any::<Index>(), any::<u8>());
    (select(valid), vec(change, 1..6)).prop_map(|(mut bytes, changes)| {
        for (kind, place, byte) in changes {
            if bytes.is_empty() {
                break;
            }
            let at = place.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => drop(bytes.remove(at)),
                2 => {
                    let end = (at + usize::from(byte)).min(bytes.len());
                    let stretch = bytes[at..end].to_vec();
                    bytes.splice(at..at, stretch);
                }
                _ => bytes.truncate(at),
            }
        }
        bytes
    })
}

/// A text that is read prints as one that reads back as the same; errors point into the text.
fn check_text<M: Name + Default>(input: &str) -> TestCaseResult {
    match text::parse::<M>("fuzz.prototxt", input) {
        Ok(message) => check_print(&message),
        Err(error) => {
            prop_assert!((1..=input.matches('\n').count() + 1).contains(&error.line()));
            let line = input.split('\n').nth(error.line() - 1).unwrap();
            prop_assert!((1..=line.chars().count() + 1).contains(&error.column()));
            prop_assert_eq!(error.to_string().lines().count(), 3);
            Ok(())
        }
    }
}

fn check_print<M: Name + Default>(message: &M) -> TestCaseResult {
    let printed = text::print(message);
    let read = text::parse::<M>("printed.prototxt", &printed);
    let read = read.map_err(|error| TestCaseError::fail(format!("{error}\n{printed}")))?;
    // Bytes and not messages, as NaN differs from itself.
    prop_assert_eq!(read.encode_to_vec(), message.encode_to_vec());
    Ok(())
}

/// Binary messages may hold what the text form cannot (numbers of unknown enum values, missing required fields), so that
/// their print need not read back.
fn check_binary<M: Name + Default>(input: &[u8]) -> TestCaseResult {
    match binary::decode::<M>(input, "fuzz") {
        Ok(message) => {
            let _ = text::parse::<M>("fuzz.prototxt", &text::print(&message));
        }
        Err(error) => prop_assert!(error.to_string().starts_with("fuzz is not a whole ")),
    }
    Ok(())
}

fn check_all_texts(bytes: Vec<u8>) -> TestCaseResult {
    let input = String::from_utf8_lossy(&bytes);
    check_text::<NetParameter>(&input)?;
    check_text::<SolverParameter>(&input)?;
    check_text::<Datum>(&input)
}

#[test]
fn fuzz_text_random_bytes() {
    fuzz(&vec(any::<u8>(), 0..200), check_all_texts);
}

#[test]
fn fuzz_text_mutated() {
    let valid = valid_texts().into_iter().map(String::into_bytes).collect();
    fuzz(&mutated(valid), check_all_texts);
}

#[test]
fn fuzz_text_token_soup() {
    let tokens = "layer layers name type bottom convolution_param num_output pad data_param source include phase TRAIN \
                  TEST state level stage solver_type base_lr display debug_info stepvalue data clip_param min max \
                  { } < > [ ] : , ; - . ' \" \\ # \n \t 0 1 -1 1.5 .5 1e-5 1e999 0x1f 0x 089 1f inf nan true false \"a\" 'b' \
                  \\n \\777 \\x \\u12 é \0 4294967296 18446744073709551616";
    let tokens: Vec<String> = tokens.split(' ').filter(|t| !t.is_empty()).map(str::to_owned).collect();
    let separators = select(vec!["", " ", "\n", ": "]);
    let soup = vec((select(tokens), separators), 0..60);
    fuzz(&soup, |soup| {
        let bytes = soup
            .iter()
            .flat_map(|(token, separator)| [token.as_bytes(), separator.as_bytes()].concat());
        check_all_texts(bytes.collect())
    });
}

#[test]
fn fuzz_binary_random_bytes() {
    fuzz(&vec(any::<u8>(), 0..200), |bytes| {
        check_binary::<NetParameter>(&bytes)?;
        check_binary::<SolverState>(&bytes)?;
        check_binary::<Datum>(&bytes)
    });
}

#[test]
fn fuzz_binary_mutated() {
    let nets = valid_texts()
        .into_iter()
        .filter_map(|valid| text::parse::<NetParameter>("", &valid).ok());
    let valid: Vec<Vec<u8>> = nets.map(|net| net.encode_to_vec()).collect();
    assert!(valid.len() > 1);
    fuzz(&mutated(valid), |bytes| {
        check_binary::<NetParameter>(&bytes)?;
        if let Ok(net) = binary::decode::<NetParameter>(&bytes, "fuzz") {
            // An error is as good; a panic is not.
            let _ = upgrade::net(net);
        }
        Ok(())
    });
}

/// Choices for a random message; bytes, so that proptest can shrink them.
struct Choices<'a>(std::slice::Iter<'a, u8>);

impl Choices<'_> {
    /// 0 where the bytes have run out.
    fn byte(&mut self) -> u8 {
        self.0.next().copied().unwrap_or(0)
    }

    fn number(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }

    fn message(&mut self, descriptor: MessageDescriptor) -> DynamicMessage {
        let mut message = DynamicMessage::new(descriptor.clone());
        let fields: Vec<_> = descriptor.fields().collect();
        for field in fields
            .iter()
            .filter(|field| field.cardinality() == Cardinality::Required)
        {
            let value = self.value(field.kind());
            message.set_field(field, value);
        }
        for _ in 0..self.byte() % 6 {
            let field = &fields[usize::from(self.byte()) % fields.len()];
            let value = self.value(field.kind());
            match message.get_field_mut(field) {
                Value::List(list) => list.push(value),
                single => *single = value,
            }
        }
        message
    }

    fn value(&mut self, kind: Kind) -> Value {
        match kind {
            Kind::Message(descriptor) => Value::Message(self.message(descriptor)),
            Kind::Enum(descriptor) => {
                let at = usize::from(self.byte()) % descriptor.values().len();
                Value::EnumNumber(descriptor.values().nth(at).unwrap().number())
            }
            Kind::Bool => Value::Bool(self.byte() % 2 == 1),
            Kind::String => Value::String(String::from_utf8_lossy(&self.number().to_le_bytes()).into_owned()),
            Kind::Bytes => Value::Bytes(self.number().to_le_bytes().to_vec().into()),
            Kind::Float => {
                let value = f32::from_bits(self.number() as u32);
                // The text form has one NaN only.
                Value::F32(if value.is_nan() { f32::NAN } else { value })
            }
            Kind::Double => {
                let value = f64::from_bits(self.number());
                Value::F64(if value.is_nan() { f64::NAN } else { value })
            }
            Kind::Int32 => Value::I32(self.number() as i32),
            Kind::Int64 => Value::I64(self.number() as i64),
            Kind::Uint32 => Value::U32(self.number() as u32),
            Kind::Uint64 => Value::U64(self.number()),
            other => panic!("caffe.proto has no {other:?}"),
        }
    }
}

#[test]
fn fuzz_print_reads_back() {
    let descriptors = include_bytes!(concat!(env!("OUT_DIR"), "/caffe.descriptors"));
    let pool = DescriptorPool::decode(descriptors.as_slice()).unwrap();
    fn check<M: Name + Default>(pool: &DescriptorPool, bytes: &[u8]) -> TestCaseResult {
        let descriptor = pool.get_message_by_name(&M::full_name()).unwrap();
        let message = Choices(bytes.iter()).message(descriptor);
        check_print(&message.transcode_to::<M>().unwrap())
    }
    fuzz(&vec(any::<u8>(), 0..400), |bytes| {
        check::<NetParameter>(&pool, &bytes)?;
        check::<SolverParameter>(&pool, &bytes)?;
        check::<SolverState>(&pool, &bytes)?;
        check::<BlobProtoVector>(&pool, &bytes)?;
        check::<Datum>(&pool, &bytes)
    });
}
