//! Caffe's messages, built from Python's values: fields and enums are checked against the schema of `caffe.proto`.

use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::{
    IntoPyObjectExt,
    exceptions::{PyAttributeError, PyTypeError},
    prelude::*,
    types::{PyBytes, PyDict, PyList, PyString},
};
use sparknet_engine::{SpecError, layers};
use sparknet_proto::{
    caffe::NetParameter,
    reflect::{self, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage, Value},
    upgrade,
};

use crate::error::Failure;

/// A message of caffe.proto, such as a NetParameter; str() prints it as a prototxt. Fields are attributes; a field that
/// is a message, or a list, is read as a copy and set as a whole.
#[pyclass(frozen, module = "sparknet._native")]
pub struct Message {
    message: Mutex<DynamicMessage>,
    /// Whether it was read from another message: setting a field of it would change nothing there.
    is_copy: bool,
}

impl Message {
    fn new(message: DynamicMessage, is_copy: bool) -> Self {
        Self {
            message: Mutex::new(message),
            is_copy,
        }
    }

    fn lock(&self) -> MutexGuard<'_, DynamicMessage> {
        self.message.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The net that the message is, upgraded to the current form.
    pub fn to_net(&self) -> Result<NetParameter, Failure> {
        let message = self.lock().clone();
        let Some(net) = reflect::to_struct::<NetParameter>(&message) else {
            return Err(Failure::Input(format!(
                "a net is a NetParameter, and this is a {}",
                message.descriptor().name()
            )));
        };
        upgrade::net(net).map_err(|error| Failure::Input(error.to_string()))
    }
}

#[pymethods]
impl Message {
    /// A message by its type's name, with these fields.
    #[new]
    #[pyo3(signature = (type_name, **fields))]
    fn build(type_name: &str, fields: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        let mut message = DynamicMessage::new(descriptor(type_name)?);
        for (name, value) in fields.into_iter().flatten() {
            set(&mut message, &name.extract::<String>()?, &value)?;
        }
        Ok(Self::new(message, false))
    }

    /// Reads a message from its text form.
    #[staticmethod]
    fn parse(type_name: &str, text: &str) -> PyResult<Self> {
        let read = || {
            let descriptor = descriptor(type_name)?;
            reflect::parse(descriptor, type_name, text).map_err(|error| Failure::Input(error.to_string()))
        };
        Ok(Self::new(read()?, false))
    }

    /// Reads a message from its binary form.
    #[staticmethod]
    fn decode(type_name: &str, content: &[u8]) -> PyResult<Self> {
        let found = DynamicMessage::decode(descriptor(type_name)?, content)
            .map_err(|error| Failure::Input(format!("this is no {type_name} in binary form: {error}")))?;
        Ok(Self::new(found, false))
    }

    /// A copy with these fields set.
    #[pyo3(signature = (**fields))]
    fn with_fields(&self, fields: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        let mut message = self.lock().clone();
        for (name, value) in fields.into_iter().flatten() {
            set(&mut message, &name.extract::<String>()?, &value)?;
        }
        Ok(Self::new(message, false))
    }

    fn __getattr__<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
        let message = self.lock().clone();
        let Some(field) = message.descriptor().get_field_by_name(name) else {
            return Err(PyAttributeError::new_err(no_field(&message.descriptor(), name)));
        };
        to_python(py, &message.get_field(&field))
    }

    fn __setattr__(&self, name: &str, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let descriptor = self.lock().descriptor();
        if self.is_copy {
            return Err(PyAttributeError::new_err(format!(
                "this {} is a copy of a part of another message: set the whole field there instead",
                descriptor.name()
            )));
        }
        // On a message of its own: reading the value runs Python's code, which may look at this one.
        let mut part = DynamicMessage::new(descriptor.clone());
        set(&mut part, name, value)?;
        if let Some(field) = descriptor.get_field_by_name(name) {
            let mut message = self.lock();
            if part.has_field(&field) {
                message.set_field(&field, part.get_field(&field).into_owned());
            } else {
                message.clear_field(&field);
            }
        }
        Ok(())
    }

    /// Whether a field is set.
    #[pyo3(name = "HasField")]
    fn has_field(&self, name: &str) -> PyResult<bool> {
        let message = self.lock();
        match message.descriptor().get_field_by_name(name) {
            Some(field) => Ok(message.has_field(&field)),
            None => Err(Failure::Input(no_field(&message.descriptor(), name)).into()),
        }
    }

    /// The binary form.
    #[pyo3(name = "SerializeToString")]
    fn serialize<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &reflect::encode(&self.lock()))
    }

    fn __str__(&self) -> String {
        reflect::print(&self.lock())
    }

    fn __repr__(&self) -> String {
        let message = self.lock();
        format!("<{}\n{}>", message.descriptor().name(), reflect::print(&message))
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        // Cloned before the other lock is taken: the two may be one.
        let mine = self.lock().clone();
        other.cast::<Self>().is_ok_and(|other| *other.get().lock() == mine)
    }
}

/// A LayerParameter of a type, with fields of the layer or of the type's own parameters, as pycaffe's NetSpec takes
/// them.
#[pyfunction]
pub fn layer(type_name: &str, fields: &Bound<'_, PyDict>) -> PyResult<Message> {
    let unknown = |error| match error {
        SpecError::UnknownType { fact, .. } => Failure::Input(format!("layer type '{type_name}' {fact}")),
        other => Failure::Input(other.to_string()),
    };
    layers::find("", type_name).map_err(unknown)?;
    let layer_type = descriptor("LayerParameter")?;
    let mut message = DynamicMessage::new(layer_type.clone());
    // Which field has the type's own parameters is told by the name of the field's message.
    let own_name = format!("{type_name}Parameter");
    let own_field = layer_type.fields().find(|field| match field.kind() {
        Kind::Message(message) => message.name() == own_name,
        _ => false,
    });
    let mut own = own_field.as_ref().and_then(|field| match field.kind() {
        Kind::Message(message) => Some(DynamicMessage::new(message)),
        _ => None,
    });
    for (name, value) in fields {
        let name = name.extract::<String>()?;
        let is_own = |own: &DynamicMessage| own.descriptor().get_field_by_name(&name).is_some();
        let is_param = name.ends_with("param");
        match &mut own {
            Some(own) if !is_param && is_own(own) => set(own, &name, &value)?,
            _ if layer_type.get_field_by_name(&name).is_some() => set(&mut message, &name, &value)?,
            Some(own) => return Err(unknown_field(type_name, &name, &[&own.descriptor(), &layer_type]).into()),
            None => return Err(unknown_field(type_name, &name, &[&layer_type]).into()),
        }
    }
    if let (Some(field), Some(own)) = (own_field, own)
        && own.fields().next().is_some()
    {
        // Some may have been given as a whole, as convolution_param.
        let mut whole = match message.get_field(&field).as_ref() {
            Value::Message(given) => given.clone(),
            _ => DynamicMessage::new(own.descriptor()),
        };
        for (field, value) in own.fields() {
            whole.set_field(&field, value.clone());
        }
        message.set_field(&field, Value::Message(whole));
    }
    message.set_field_by_name("type", Value::String(type_name.to_owned()));
    Ok(Message::new(message, false))
}

/// The number of an enum's value, by the message that has the enum.
#[pyfunction]
pub fn enum_value(message: &str, name: &str) -> PyResult<i32> {
    let descriptor = descriptor(message)?;
    let values: Vec<_> = descriptor
        .child_enums()
        .flat_map(|values| values.values().collect::<Vec<_>>())
        .collect();
    match values.iter().find(|value| value.name() == name) {
        Some(value) => Ok(value.number()),
        None => {
            let names = values.iter().map(|value| value.name());
            let hint = hint(name, names);
            Err(PyAttributeError::new_err(format!(
                "{message} has no value '{name}'{hint}"
            )))
        }
    }
}

fn descriptor(name: &str) -> Result<MessageDescriptor, Failure> {
    reflect::message(name).ok_or_else(|| Failure::Input(format!("caffe.proto has no message {name}")))
}

fn hint<'a>(written: &str, names: impl Iterator<Item = &'a str>) -> String {
    reflect::nearest(written, names).map_or_else(String::new, |name| format!(": did you mean '{name}'?"))
}

fn no_field(descriptor: &MessageDescriptor, name: &str) -> String {
    let fields: Vec<FieldDescriptor> = descriptor.fields().collect();
    let hint = hint(name, fields.iter().map(FieldDescriptor::name));
    format!("{} has no field '{name}'{hint}", descriptor.name())
}

fn unknown_field(type_name: &str, name: &str, descriptors: &[&MessageDescriptor]) -> Failure {
    let fields: Vec<FieldDescriptor> = descriptors.iter().flat_map(|descriptor| descriptor.fields()).collect();
    let hint = hint(name, fields.iter().map(FieldDescriptor::name));
    Failure::Input(format!("layer type {type_name} has no field '{name}'{hint}"))
}

/// Sets a field from a Python value: a list for a repeated field, where one value stands for a list of one.
fn set(message: &mut DynamicMessage, name: &str, value: &Bound<'_, PyAny>) -> PyResult<()> {
    let Some(field) = message.descriptor().get_field_by_name(name) else {
        return Err(Failure::Input(no_field(&message.descriptor(), name)).into());
    };
    let value = if field.is_list() {
        Value::List(match elements(value)? {
            Some(elements) => elements
                .iter()
                .map(|element| to_value(&field, element))
                .collect::<PyResult<_>>()?,
            None => vec![to_value(&field, value)?],
        })
    } else {
        to_value(&field, value)?
    };
    // An empty list that is set is another message than one without the field, as prost-reflect compares them.
    if matches!(&value, Value::List(elements) if elements.is_empty()) {
        message.clear_field(&field);
    } else {
        message.set_field(&field, value);
    }
    Ok(())
}

/// What is in a list, a tuple, an array; `None` for what is one value.
fn elements<'py>(value: &Bound<'py, PyAny>) -> PyResult<Option<Vec<Bound<'py, PyAny>>>> {
    let is_one = value.is_instance_of::<PyString>()
        || value.is_instance_of::<PyBytes>()
        || value.is_instance_of::<PyDict>()
        || value.is_instance_of::<Message>();
    match value.try_iter() {
        Ok(elements) if !is_one => Ok(Some(elements.collect::<PyResult<_>>()?)),
        _ => Ok(None),
    }
}

fn to_value(field: &FieldDescriptor, value: &Bound<'_, PyAny>) -> PyResult<Value> {
    let wants = |what: &str| -> PyErr {
        let given = value
            .repr()
            .map_or_else(|_| "this value".to_owned(), |repr| repr.to_string());
        Failure::Input(format!(
            "field '{}' of {} wants {what}, not {given}",
            field.name(),
            field.parent_message().name()
        ))
        .into()
    };
    Ok(match field.kind() {
        Kind::Message(descriptor) => {
            if let Ok(given) = value.cast::<Message>() {
                let message = given.get().lock().clone();
                if message.descriptor() != descriptor {
                    return Err(wants(&format!("a {}", descriptor.name())));
                }
                return Ok(Value::Message(message));
            }
            let Ok(fields) = value.cast::<PyDict>() else {
                return Err(wants(&format!("a dict with fields of {}", descriptor.name())));
            };
            let mut message = DynamicMessage::new(descriptor);
            for (name, value) in fields {
                let name: String = name.extract().map_err(|_| wants("names as the keys of its dict"))?;
                set(&mut message, &name, &value)?;
            }
            Value::Message(message)
        }
        Kind::Enum(values) => {
            let names = || {
                let names: Vec<String> = values.values().map(|value| value.name().to_owned()).collect();
                format!("one of {}", names.join(", "))
            };
            let found = if let Ok(name) = value.extract::<String>() {
                values.get_value_by_name(&name)
            } else {
                value.extract().ok().and_then(|number| values.get_value(number))
            };
            Value::EnumNumber(found.ok_or_else(|| wants(&names()))?.number())
        }
        Kind::String => Value::String(value.extract().map_err(|_| wants("a string"))?),
        Kind::Bytes => Value::Bytes(value.extract::<Vec<u8>>().map_err(|_| wants("bytes"))?.into()),
        Kind::Bool => Value::Bool(match value.extract::<bool>() {
            Ok(given) => given,
            Err(_) => match value.extract::<i64>() {
                Ok(0) => false,
                Ok(1) => true,
                _ => return Err(wants("True or False")),
            },
        }),
        Kind::Float => {
            let given: f64 = value.extract().map_err(|_| wants("a number"))?;
            let rounded = given as f32;
            if rounded.is_infinite() && given.is_finite() {
                return Err(wants("a number that a float can hold"));
            }
            Value::F32(rounded)
        }
        Kind::Double => Value::F64(value.extract().map_err(|_| wants("a number"))?),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
            Value::I32(value.extract().map_err(|_| wants("a whole number of 32 bits"))?)
        }
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
            Value::I64(value.extract().map_err(|_| wants("a whole number of 64 bits"))?)
        }
        Kind::Uint32 | Kind::Fixed32 => Value::U32(
            value
                .extract()
                .map_err(|_| wants("a whole number from 0 to 4294967295"))?,
        ),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(
            value
                .extract()
                .map_err(|_| wants("a whole number of 64 bits, not below 0"))?,
        ),
    })
}

fn to_python<'py>(py: Python<'py>, value: &Value) -> PyResult<Bound<'py, PyAny>> {
    match value {
        Value::Bool(value) => value.into_bound_py_any(py),
        Value::I32(value) | Value::EnumNumber(value) => value.into_bound_py_any(py),
        Value::I64(value) => value.into_bound_py_any(py),
        Value::U32(value) => value.into_bound_py_any(py),
        Value::U64(value) => value.into_bound_py_any(py),
        Value::F32(value) => value.into_bound_py_any(py),
        Value::F64(value) => value.into_bound_py_any(py),
        Value::String(value) => value.into_bound_py_any(py),
        Value::Bytes(value) => Ok(PyBytes::new(py, value).into_any()),
        Value::Message(message) => Message::new(message.clone(), true).into_bound_py_any(py),
        Value::List(values) => {
            let values = values.iter().map(|value| to_python(py, value));
            Ok(PyList::new(py, values.collect::<PyResult<Vec<_>>>()?)?.into_any())
        }
        // Caffe's schema has no maps.
        Value::Map(_) => Err(PyTypeError::new_err("a map is no field of Caffe's")),
    }
}
