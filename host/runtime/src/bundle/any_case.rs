//! Names of fields in another case than the specification's (`"Process"`, `"ociversion"`), which runc takes, as Go's JSON does.
//!
//! Each type says its fields' names when it is read. A name that is none of them stands for the one that differs by case only; so nothing
//! is looked at twice, and keys that are data (annotations, sysctls) stay as they are. A field that is there under two names is an error.

use std::borrow::Cow;
use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// What the text says.
pub fn from_slice<T: DeserializeOwned>(text: &[u8]) -> serde_json::Result<T> {
    let mut json = serde_json::Deserializer::from_slice(text);
    let value = T::deserialize(AnyCase::new(&mut json))?;
    json.end()?;
    Ok(value)
}

/// What the value says.
pub fn from_value<T: DeserializeOwned>(value: Value) -> serde_json::Result<T> {
    T::deserialize(AnyCase::new(value))
}

/// The field of an object, whatever its case.
pub fn field<'a>(object: &'a mut serde_json::Map<String, Value>, name: &str) -> Option<&'a mut Value> {
    object.iter_mut().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// Something that is read with names in any case: a deserializer, and what serde makes of one on the way to a struct's fields.
pub struct AnyCase<T> {
    inner: T,
    /// Names of the struct that is being read.
    fields: &'static [&'static str],
}

impl<T> AnyCase<T> {
    /// With names in any case.
    pub fn new(inner: T) -> Self {
        Self { inner, fields: &[] }
    }
}

/// What holds no fields is left to the inner one.
macro_rules! leave {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.inner.$method(visitor)
        }
    )*};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for AnyCase<D> {
    type Error = D::Error;

    leave! {
        deserialize_any deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128 deserialize_u8
        deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128 deserialize_f32 deserialize_f64 deserialize_char deserialize_str
        deserialize_string deserialize_bytes deserialize_byte_buf deserialize_unit deserialize_identifier deserialize_ignored_any
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_unit_struct(name, visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.inner.deserialize_enum(name, variants, visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_option(AnyCase::new(visitor))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_newtype_struct(name, AnyCase::new(visitor))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_seq(AnyCase::new(visitor))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_tuple(len, AnyCase::new(visitor))
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.inner.deserialize_tuple_struct(name, len, AnyCase::new(visitor))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_map(AnyCase::new(visitor))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.inner.deserialize_struct(name, fields, AnyCase { inner: visitor, fields })
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for AnyCase<V> {
    type Value = V::Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(formatter)
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<V::Value, E> {
        self.inner.visit_none()
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<V::Value, E> {
        self.inner.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.inner.visit_some(AnyCase::new(deserializer))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.inner.visit_newtype_struct(AnyCase::new(deserializer))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, sequence: A) -> Result<V::Value, A::Error> {
        self.inner.visit_seq(AnyCase::new(sequence))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        self.inner.visit_map(AnyCase { inner: map, fields: self.fields })
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for AnyCase<A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.inner.next_element_seed(AnyCase::new(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for AnyCase<A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        if self.fields.is_empty() {
            return self.inner.next_key_seed(seed);
        }
        let Some(key) = self.inner.next_key_seed(Key)? else { return Ok(None) };
        let exact = || self.fields.iter().find(|field| **field == key);
        let similar = || self.fields.iter().find(|field| field.eq_ignore_ascii_case(&key));
        let name = exact().or_else(similar).map_or(&*key, |field| field);
        seed.deserialize(StrDeserializer::new(name)).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.inner.next_value_seed(AnyCase::new(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for AnyCase<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        self.inner.deserialize(AnyCase::new(deserializer))
    }
}

/// A key, which is copied only where it has escapes.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Cow<'de, str>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a field's name")
    }

    fn visit_borrowed_str<E: serde::de::Error>(self, text: &'de str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(text.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::{LinuxResources, Spec};
    use serde_json::json;

    use super::*;

    const CONFIG: &str = r#"{"OCIVERSION": "1.0.2", "Process": {"Args": ["sh"], "CWD": "/", "user": {"UID": 3, "gid": 4},
        "rlimits": [{"Type": "RLIMIT_NOFILE", "SOFT": 1, "hard": 2}]}, "annotations": {"Process": "x", "process": "y"},
        "linux": {"Sysctl": {"kernel.X": "1"}, "SecComp": {"defaultaction": "SCMP_ACT_ALLOW"}, "\u004eamespaces": [{"TYPE": "pid"}]}}"#;

    #[test]
    fn names_are_found_whatever_their_case() {
        let spec: Spec = from_slice(CONFIG.as_bytes()).unwrap();
        let exact = json!({"ociVersion": "1.0.2", "process": {"args": ["sh"], "cwd": "/", "user": {"uid": 3, "gid": 4},
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2}]}, "annotations": {"Process": "x", "process": "y"},
            "linux": {"sysctl": {"kernel.X": "1"}, "seccomp": {"defaultAction": "SCMP_ACT_ALLOW"}, "namespaces": [{"type": "pid"}]}});
        assert_eq!(spec, serde_json::from_value(exact.clone()).unwrap());
        assert_eq!(spec, from_value(exact).unwrap());
        assert_eq!(spec, from_value(serde_json::from_str(CONFIG).unwrap()).unwrap());
        let resources: LinuxResources = from_slice(br#"{"Memory": {"LIMIT": 5}, "pids": null}"#).unwrap();
        assert_eq!(resources.memory().unwrap().limit(), Some(5));
    }

    #[test]
    fn a_field_under_two_names_is_refused_with_its_place() {
        let error = from_slice::<Spec>(b"{\"ociVersion\": \"1.0.2\",\n\"ociversion\": \"1.0.3\"}").unwrap_err();
        assert!(error.to_string().starts_with("duplicate field `ociVersion` at line 2"), "{error}");
        assert!(from_slice::<Spec>(b"{\"ociVersion\": \"1.0.2\"} x").is_err());
    }

    #[test]
    fn what_is_similar_is_another_field() {
        let spec: Spec = from_slice(br#"{"ociVersion": "1.0.2", "processes": 1, "host_name": 2}"#).unwrap();
        assert!(spec.process().is_none() && spec.hostname().is_none());
    }

    #[test]
    fn values_of_the_wrong_type_are_named_as_before() {
        for text in
            [r#"{"ociVersion": 7}"#, r#"{"ociVersion": "1", "process": 3}"#, r#"{"process": {"args": "x"}}"#, "{"]
        {
            let (plain, any) =
                (serde_json::from_str::<Spec>(text).unwrap_err(), from_slice::<Spec>(text.as_bytes()).unwrap_err());
            assert_eq!(plain.to_string(), any.to_string(), "{text}");
        }
    }
}
