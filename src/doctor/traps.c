#include "doctor/traps.h"

#include "base/buf.h"
#include "model/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern const unsigned char nb_data_traps[];
extern const size_t nb_data_traps_bytes;

enum { MAX_TRAPS_BYTES = 4 << 20 };

struct packages {
    nb_package_fn find;
    void *context;
};

/* Whether all of {"package": "specifiers", …} are there; which, goes to *found. */
static bool all_there(const json_t *when, const struct packages *p, struct nb_buf *found) {
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)when, name, value) {
        const char *specifiers = json_string_value(value);
        bool there = false;
        const struct nb_version *v = p->find(p->context, name, &there);
        if (!there || !specifiers || (specifiers[0] && !v) ||
            (v && !nb_version_matches(v, specifiers, strlen(specifiers), NULL)))
            return false;
        nb_buf_printf(found, "%s%s%s%s", found->len ? "; " : "", name,
                      specifiers[0] ? " is " : " is there", specifiers);
    }
    return true;
}

static bool none_there(const json_t *without, const struct packages *p) {
    size_t i;
    const json_t *name;
    json_array_foreach(without, i, name) {
        bool there = false;
        if (json_is_string(name))
            p->find(p->context, json_string_value(name), &there);
        if (there)
            return false;
    }
    return true;
}

/* Whether a number, as a version, is what a rule asks for; a rule that does not ask, always. */
static bool number_is(const json_t *rule, const char *key, const char *text) {
    const char *specifiers = json_string_value(json_object_get(rule, key));
    struct nb_version v;
    if (!specifiers)
        return true;
    return text[0] && nb_version_parse(text, strlen(text), &v) &&
           nb_version_matches(&v, specifiers, strlen(specifiers), NULL);
}

static const char *text_of(const json_t *rule, const char *key) {
    const char *s = json_string_value(json_object_get(rule, key));
    return s ? s : "";
}

static void apply(const json_t *rule, const struct packages *p, int python,
                  const struct nb_target *target, struct nb_findings *f) {
    char version[16] = "", capability[16] = "";
    struct nb_buf found = {0};
    const char *environment = json_string_value(json_object_get(rule, "environment"));
    const char *value = environment ? getenv(environment) : NULL;
    if (python)
        snprintf(version, sizeof version, "%d.%d", python / 100, python % 100);
    if (target->name)
        snprintf(capability, sizeof capability, "%d", target->capability);
    if (all_there(json_object_get(rule, "when"), p, &found) &&
        none_there(json_object_get(rule, "without"), p) && number_is(rule, "python", version) &&
        number_is(rule, "capability", capability) && (!environment || (value && *value))) {
        if (environment)
            nb_buf_printf(&found, "; %s=%s", environment, value);
        if (capability[0] && json_object_get(rule, "capability"))
            nb_buf_printf(&found, "; %s is of compute capability %d.%d", target->name,
                          target->capability / 10, target->capability % 10);
        nb_findings_add(f,
                        strcmp(text_of(rule, "severity"), "note") == 0 ? NB_SEVERITY_NOTE
                                                                       : NB_SEVERITY_WARNING,
                        "known-trap", nb_findings_text(f, "known trap: %s", text_of(rule, "title")),
                        nb_findings_text(f, "%s\n%s\n%s", found.data ? found.data : "",
                                         text_of(rule, "why"), text_of(rule, "link")),
                        text_of(rule, "fix"));
    }
    nb_buf_free(&found);
}

static enum nb_status check_rule(const json_t *rule, size_t i, const char *name,
                                 struct nb_error *err) {
    static const char *const needed[] = {"id", "title", "why", "fix", "link"};
    for (size_t k = 0; k < sizeof needed / sizeof *needed; k++) {
        if (!json_is_string(json_object_get(rule, needed[k])))
            return nb_fail(err, NB_ERR_FORMAT, "%s: trap %zu has no \"%s\" that is a string", name,
                           i + 1, needed[k]);
    }
    if (!json_is_object(json_object_get(rule, "when")))
        return nb_fail(err, NB_ERR_FORMAT,
                       "%s: trap %zu (%s) has no \"when\", an object from names of packages to "
                       "versions",
                       name, i + 1, text_of(rule, "id"));
    return NB_OK;
}

static enum nb_status apply_all(json_t *root, const char *name, const struct packages *p,
                                int python, const struct nb_target *target, struct nb_findings *f,
                                struct nb_error *err) {
    const json_t *traps = json_object_get(root, "traps"), *rule;
    size_t i;
    if (!json_is_array(traps))
        return nb_fail(err, NB_ERR_FORMAT, "%s: \"traps\" is %s, expected an array", name,
                       nb_json_type(traps));
    json_array_foreach(traps, i, rule) {
        enum nb_status s = check_rule(rule, i, name, err);
        if (s != NB_OK)
            return s;
        apply(rule, p, python, target, f);
    }
    return NB_OK;
}

enum nb_status nb_doctor_traps(const char *file, nb_package_fn package, void *context, int python,
                               const struct nb_target *target, struct nb_findings *findings,
                               struct nb_error *err) {
    struct packages p = {package, context};
    json_t *root;
    enum nb_status s =
        nb_json_parse((const char *)nb_data_traps, nb_data_traps_bytes, "traps.json", &root, err);
    if (s == NB_OK) {
        s = apply_all(root, "traps.json", &p, python, target, findings, err);
        json_decref(root);
    }
    if (s == NB_OK && file) {
        s = nb_json_read(file, MAX_TRAPS_BYTES, &root, err);
        if (s == NB_OK) {
            s = apply_all(root, file, &p, python, target, findings, err);
            json_decref(root);
        }
    }
    return s;
}
