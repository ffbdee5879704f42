/* A worker's jobs: inputs, results, and the outbox where results wait, also when the disk is full.
 */
#include "folder.h"

#include "service/jobs/job.h"
#include "service/jobs/outbox.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- inputs and results ---- */

static void inputs(void **state) {
    (void)state;
    static const struct {
        const char *input, *path, *body; /* or */
        const char *error;
        enum nb_job_style style;
        bool stream;
    } cases[] = {
        {"{\"endpoint\":\"/prompt\",\"data\":{\"prompt\":\"a\"}}", "/prompt", "{\"prompt\":\"a\"}",
         NULL, NB_JOB_ENDPOINT, false},
        {"{\"endpoint\":\"/health\"}", "/health", "{}", NULL, NB_JOB_ENDPOINT, false},
        {"{\"endpoint\":\"/prompt\",\"data\":null,\"api_key\":null}", "/prompt", "{}", NULL,
         NB_JOB_ENDPOINT, false},
        {"{\"prompt\":\"a\",\"stream\":true,\"api_key\":\"k\",\"callback_url\":\"u\"}",
         "/v1/completions", "{\"prompt\":\"a\",\"stream\":true}", NULL, NB_JOB_OPENAI, true},
        {"{\"messages\":[],\"prompt\":\"a\"}", "/v1/chat/completions",
         "{\"messages\":[],\"prompt\":\"a\"}", NULL, NB_JOB_OPENAI, false},
        {"{\"openai_route\":\"/v1/chat/completions\",\"openai_input\":{\"stream\":true}}",
         "/v1/chat/completions", "{\"stream\":true}", NULL, NB_JOB_OPENAI_ROUTE, true},
        {"{\"openai_route\":\"/v1/models\"}", "/v1/models", "{}", NULL, NB_JOB_OPENAI_ROUTE, false},
        {"{\"endpoint\":\"/metrics\"}", NULL, NULL, "no endpoint \"/metrics\"", 0, false},
        {"{\"endpoint\":1}", NULL, NULL, "endpoint: expected a string", 0, false},
        {"{\"openai_route\":1}", NULL, NULL, "openai_route: expected a string", 0, false},
        {"{}", NULL, NULL, "found none of", 0, false},
        {"[]", NULL, NULL, "input: expected an object", 0, false},
        {"{\"endpoint\":\"/prompt\",\"data\":\"x\"}", NULL, NULL, "data: expected an object", 0,
         false},
        {"{\"endpoint\":\"/prompt\",\"api_key\":5}", NULL, NULL, "api_key: expected a string", 0,
         false},
        {"{\"endpoint\":\"/prompt\",\"callback_url\":[]}", NULL, NULL,
         "callback_url: expected a string", 0, false},
        {"{\"endpoint\":\"/prompt\",\"callback_url\":\"a\\u0000b\"}", NULL, NULL,
         "callback_url: expected a string", 0, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *input = json_loads(cases[i].input, JSON_ALLOW_NUL, NULL);
        assert_non_null(input);
        struct nb_job_input got;
        struct nb_error err;
        enum nb_status s = nb_job_input_read(input, &got, &err);
        if (cases[i].error) {
            assert_int_not_equal(s, NB_OK);
            if (!strstr(err.message, cases[i].error))
                fail_msg("%s: %s", cases[i].input, err.message);
        } else {
            assert_ok(s, err);
            assert_string_equal(got.path, cases[i].path);
            assert_string_equal(got.body, cases[i].body);
            assert_int_equal(got.style, cases[i].style);
            assert_int_equal(got.stream, cases[i].stream);
        }
        nb_job_input_free(&got);
        json_decref(input);
    }
}

static void ids(void **state) {
    (void)state;
    static const struct {
        const char *text, *id;
    } cases[] = {
        {"{\"id\":\"a-1\",\"input\":{\"x\":1e999}}", "a-1"},
        {"{\"delay\": 3, \"id\" : \"b\", ", "b"},
        {"[{\"id\":\"no\"}]", NULL},
        {"{\"input\":{\"id\":\"inner\"},\"id\":\"outer\"", "outer"},
        {"{\"x\":\"\\\"id\\\":\\\"no\\\"\",\"id\":\"yes\"}", "yes"},
        {"{\"id\":\"a b\"}", NULL},
        {"{\"id\":\"a,b\"}", NULL},
        {"{\"id\":\"", NULL},
        {"{\"id\":5}", NULL},
        {"{\"id\"", NULL},
        {"{\"id\":\"0123456789012345678901234567890123456789\"}", NULL},
        {"", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char id[32];
        bool found = nb_job_find_id(cases[i].text, strlen(cases[i].text), id, sizeof id);
        if (found != (cases[i].id != NULL) || (found && strcmp(id, cases[i].id) != 0))
            fail_msg("%s: %s", cases[i].text, found ? id : "none");
    }
}

/* What a queue might send by mistake: sound jobs with bytes changed, cut out, doubled. */
static void mutated(void **state) {
    (void)state;
    static const char *const seeds[] = {
        "{\"id\":\"a-1\",\"input\":{\"endpoint\":\"/prompt\",\"data\":{\"prompt\":\"a\"}}}",
        "{\"delay\":[1],\"id\":\"b\",\"input\":{\"openai_route\":\"/v1/"
        "models\",\"api_key\":\"k\"}}",
        "{\"id\":\"c\",\"input\":{\"messages\":[],\"stream\":true,\"callback_url\":\"http://x/"
        "\\u0000\"}}",
        "data: {\"a\":1}\n\ndata: {\"error\":{\"message\":\"m\"}}\n\ndata: [DONE]\n\n",
    };
    uint64_t random = 11;
    size_t read = 0, found = 0;
    for (int round = 0; round < 40000; round++) {
        const char *seed = seeds[round % 4];
        size_t n = strlen(seed), changes = 1 + (random >> 60) % 3;
        char *text = malloc(n * 2); /* of its own, so that a sanitizer sees its end */
        memcpy(text, seed, n);
        for (size_t i = 0; i < changes; i++) {
            random = random * 6364136223846793005u + 1442695040888963407u;
            size_t at = (random >> 33) % n;
            unsigned how = (random >> 20) % 3;
            if (how == 0) {
                text[at] = "\"\\{}[]:, \nx\0\xff"[(random >> 40) % 13];
            } else if (how == 1) {
                n = at + 1;
            } else if (n < strlen(seed) * 2) {
                memmove(text + at + 1, text + at, n - at);
                n++;
            }
        }
        char *exact = malloc(n), id[32];
        memcpy(exact, text, n);
        free(text);
        struct nb_buf out = {0}, parts = {0}, error = {0};
        found += nb_job_find_id(exact, n, id, sizeof id);
        nb_job_part(round % 3 ? NB_JOB_OPENAI : NB_JOB_OPENAI_ROUTE, exact, n, &out, &parts,
                    &error);
        json_t *job = json_loadb(exact, n, JSON_ALLOW_NUL, NULL);
        struct nb_job_input input;
        struct nb_error err;
        if (job) {
            if (nb_job_input_read(json_object_get(job, "input"), &input, &err) == NB_OK) {
                read++;
                assert_non_null(input.path);
                assert_non_null(input.body);
            }
            nb_job_input_free(&input);
        }
        json_decref(job);
        nb_buf_free(&out);
        nb_buf_free(&parts);
        nb_buf_free(&error);
        free(exact);
    }
    assert_true(read > 1000 && found > 1000);
}

static void results(void **state) {
    (void)state;
    struct nb_buf out = {0}, parts = {0}, error = {0};
    nb_job_result(NB_JOB_ENDPOINT, 200, "{\"a\":1}", 7, &out);
    assert_string_equal(out.data, "{\"output\":{\"a\":1}}");
    nb_buf_clear(&out);
    nb_job_result(NB_JOB_OPENAI_ROUTE, 200, "{\"a\":1}", 7, &out);
    assert_string_equal(out.data, "{\"output\":[{\"a\":1}]}");
    nb_buf_clear(&out);
    static const char detail[] = "{\"detail\":\"no\"}", nothing[] = "<html>";
    nb_job_result(NB_JOB_ENDPOINT, 401, detail, strlen(detail), &out);
    assert_string_equal(
        out.data,
        "{\"output\":{\"success\":false,\"error_type\":\"AuthenticationError\"},\"error\":\"no\"}");
    nb_buf_clear(&out);
    nb_job_result(NB_JOB_ENDPOINT, 500, nothing, strlen(nothing), &out);
    assert_non_null(strstr(out.data, "\"ServerError\""));
    nb_buf_clear(&out);
    nb_job_callback("j\"1", "k", 200, "{}", 2, &out);
    assert_string_equal(out.data,
                        "{\"job_id\":\"j\\\"1\",\"status\":\"COMPLETED\",\"api_key\":\"k\","
                        "\"result\":{}}");
    nb_buf_clear(&out);
    nb_job_callback("j", NULL, 422, detail, strlen(detail), &out);
    assert_string_equal(
        out.data, "{\"job_id\":\"j\",\"status\":\"FAILED\",\"api_key\":null,\"error\":\"no\"}");
    nb_buf_clear(&out);

    static const char events[] = "data: {\"a\":1}\n\ndata: {\"a\":2}\n\n",
                      end[] = "data: [DONE]\n\n",
                      bad[] = "data: {\"error\":{\"message\":\"oh\"}}\n\n";
    assert_true(nb_job_part(NB_JOB_OPENAI, events, strlen(events), &out, &parts, &error));
    assert_string_equal(out.data, "{\"output\":[{\"a\":1},{\"a\":2}]}");
    assert_false(nb_job_part(NB_JOB_OPENAI, end, strlen(end), &out, &parts, &error));
    nb_buf_clear(&out);
    assert_true(nb_job_part(NB_JOB_OPENAI, events, 15, &out, &parts, &error));
    assert_string_equal(parts.data, "{\"a\":1},{\"a\":2},{\"a\":1}");
    assert_int_equal(error.len, 0);
    assert_false(nb_job_part(NB_JOB_OPENAI, bad, strlen(bad), &out, &parts, &error));
    assert_string_equal(error.data, "oh");
    nb_buf_clear(&out);
    nb_buf_clear(&parts);
    assert_true(nb_job_part(NB_JOB_OPENAI_ROUTE, end, strlen(end), &out, &parts, &error));
    assert_string_equal(out.data, "{\"output\":\"data: [DONE]\\n\\n\"}");
    assert_string_equal(parts.data, "\"data: [DONE]\\n\\n\"");
    nb_buf_free(&out);
    nb_buf_free(&parts);
    nb_buf_free(&error);
}

/* ---- the outbox ---- */

static char root[] = "/tmp/nibble-test-XXXXXX";

static int make_root(void **state) {
    (void)state;
    return mkdtemp(root) ? 0 : -1;
}

static int remove_root(void **state) {
    (void)state;
    return folder_remove(root);
}

struct found {
    int n;
    char id[8][64];
    bool stream[8];
    size_t bytes[8];
    char first[8];
};

static enum nb_status on_found(void *context, const char *id, bool stream, const char *result,
                               size_t n, struct nb_error *err) {
    struct found *f = context;
    assert_true(f->n < 8);
    snprintf(f->id[f->n], sizeof f->id[0], "%s", id);
    f->stream[f->n] = stream;
    f->bytes[f->n] = n;
    f->first[f->n] = n ? result[0] : 0;
    if (strcmp(id, "fails") == 0)
        return nb_fail(err, NB_ERR_MEMORY, "as the test wants");
    f->n++;
    return NB_OK;
}

static struct found read_all(struct nb_outbox *outbox) {
    struct found f = {0};
    struct nb_error err;
    assert_ok(nb_outbox_read(outbox, on_found, &f, &err), err);
    return f;
}

static int count_files(const char *folder, const char *end) {
    char command[PATH_MAX + 64];
    snprintf(command, sizeof command, "ls '%s' | grep -c '%s$'", folder, end);
    FILE *out = popen(command, "r");
    int n = -1;
    assert_int_equal(fscanf(out, "%d", &n), 1);
    pclose(out);
    return n;
}

static void keeping(void **state) {
    (void)state;
    struct nb_outbox *outbox, *second;
    struct nb_error err;
    char folder[256];
    snprintf(folder, sizeof folder, "%s/a/b/c", root);
    assert_ok(nb_outbox_open(folder, &outbox, &err), err);
    struct stat st;
    assert_int_equal(stat(folder, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    assert_int_equal(count_files(folder, ""), 0);
    assert_int_equal(nb_outbox_open(folder, &second, &err), NB_ERR_IO);
    assert_non_null(strstr(err.message, "another worker"));

    assert_ok(nb_outbox_keep(outbox, "one", false, "first", 5, &err), err);
    assert_ok(nb_outbox_keep(outbox, "two", true, "x\ny\0z", 5, &err), err);
    assert_ok(nb_outbox_keep(outbox, "one", false, "again!", 6, &err), err);
    assert_ok(nb_outbox_keep(outbox, "../../three \n\"", false, "", 0, &err), err);
    assert_int_equal(count_files(folder, ".json"), 3);
    nb_outbox_close(outbox);

    assert_ok(nb_outbox_open(folder, &outbox, &err), err);
    struct found f = read_all(outbox);
    assert_int_equal(f.n, 3);
    for (int i = 0; i < 3; i++) {
        if (strcmp(f.id[i], "one") == 0) {
            assert_int_equal(f.bytes[i], 6);
            assert_int_equal(f.first[i], 'a');
            assert_false(f.stream[i]);
        } else if (strcmp(f.id[i], "two") == 0) {
            assert_int_equal(f.bytes[i], 5);
            assert_true(f.stream[i]);
        } else {
            assert_string_equal(f.id[i], "../../three \n\"");
        }
    }
    nb_outbox_forget(outbox, "one");
    nb_outbox_forget(outbox, "never there");
    nb_outbox_forget(outbox, "../../three \n\"");
    f = read_all(outbox);
    assert_int_equal(f.n, 1);

    /* What is damaged is set aside; what a killed process left half-written is gone. */
    char path[1024];
    static const char tricks[] = "{\"job_id\":\"x\",\"sha256\":\"y\"}\n";
    folder_write(folder, "0123.json", tricks, sizeof tricks - 1);
    folder_write(folder, "empty.json", "", 0);
    folder_write(folder, "half.json.new", "{", 1);
    assert_ok(nb_outbox_keep(outbox, "cut", false, "0123456789", 10, &err), err);
    snprintf(path, sizeof path,
             "for f in '%s'/*.json; do grep -q '\"cut\"' $f && truncate -s -1 $f; done", folder);
    assert_int_equal(system(path) & 0x7f, 0);
    f = read_all(outbox);
    assert_int_equal(f.n, 1);
    assert_string_equal(f.id[0], "two");
    assert_int_equal(count_files(folder, ".bad"), 3);
    assert_int_equal(count_files(folder, ".new"), 0);

    /* A reader that fails ends the reading, and nothing is lost. */
    assert_ok(nb_outbox_keep(outbox, "fails", false, "{}", 2, &err), err);
    nb_outbox_forget(outbox, "two");
    struct found none = {0};
    assert_int_equal(nb_outbox_read(outbox, on_found, &none, &err), NB_ERR_MEMORY);
    assert_int_equal(count_files(folder, ".json"), 1);
    nb_outbox_close(outbox);
}

/* In a process of its own, for limits last. Exits with the number of the step that failed. */
static int with_full_disk(const char *folder) {
    struct nb_outbox *outbox;
    struct nb_error err;
    static char large[100000];
    memset(large, 'x', sizeof large);
    signal(SIGXFSZ, SIG_IGN);
    if (nb_outbox_open(folder, &outbox, &err) != NB_OK)
        return 1;
    if (nb_outbox_keep(outbox, "before", false, large, 100, &err) != NB_OK)
        return 2;
    struct rlimit small = {5000, 5000};
    if (setrlimit(RLIMIT_FSIZE, &small) != 0)
        return 3;
    if (nb_outbox_keep(outbox, "large", false, large, sizeof large, &err) != NB_ERR_IO)
        return 4;
    if (!strstr(err.message, "cannot keep a result of 100000 bytes") ||
        !strstr(err.message, folder))
        return 5;
    /* The one that is there stays, if its successor does not fit. */
    if (nb_outbox_keep(outbox, "before", false, large, sizeof large, &err) != NB_ERR_IO)
        return 6;
    if (nb_outbox_keep(outbox, "after", false, large, 200, &err) != NB_OK)
        return 7;
    nb_outbox_close(outbox);
    return 0;
}

static void full_disk(void **state) {
    (void)state;
    struct nb_outbox *outbox;
    struct nb_error err;
    char folder[256];
    snprintf(folder, sizeof folder, "%s/full", root);
    pid_t child = fork();
    if (child == 0)
        _exit(with_full_disk(folder));
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    assert_ok(nb_outbox_open(folder, &outbox, &err), err); /* the lock went with the process */
    struct found f = read_all(outbox);
    assert_int_equal(f.n, 2);
    for (int i = 0; i < 2; i++)
        assert_int_equal(f.bytes[i], strcmp(f.id[i], "before") == 0 ? 100 : 200);
    assert_int_equal(count_files(folder, ""), 2);
    nb_outbox_close(outbox);
}

/* A file system that has no more room; made in a name space of its own, where that is allowed. */
static void full_file_system(void **state) {
    (void)state;
    char folder[256], program[PATH_MAX], command[2 * PATH_MAX];
    snprintf(folder, sizeof folder, "%s/tmpfs", root);
    mkdir(folder, 0700);
    ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    assert_true(n > 0);
    program[n] = 0;
    snprintf(command, sizeof command,
             "unshare -rm sh -c 'mount -t tmpfs -o size=64k none %s && NB_TEST_FULL=%s %s' "
             "2>/dev/null",
             folder, folder, program);
    int status = system(command);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 77)
        skip();
}

/* What full_file_system runs there: 77 if all is well. */
static int on_tmpfs(const char *folder) {
    struct nb_outbox *outbox;
    struct nb_error err;
    static char large[30000];
    if (nb_outbox_open(folder, &outbox, &err) != NB_OK ||
        nb_outbox_keep(outbox, "a", false, large, sizeof large, &err) != NB_OK)
        return 1;
    if (nb_outbox_keep(outbox, "b", false, large, sizeof large, &err) != NB_ERR_IO &&
        nb_outbox_keep(outbox, "c", false, large, sizeof large, &err) != NB_ERR_IO)
        return 2;
    if (!strstr(err.message, "No space left"))
        return 3;
    nb_outbox_forget(outbox, "a");
    if (nb_outbox_keep(outbox, "d", false, large, sizeof large, &err) != NB_OK)
        return 4;
    nb_outbox_close(outbox);
    return 77;
}

int main(void) {
    const char *folder = getenv("NB_TEST_FULL");
    if (folder)
        return on_tmpfs(folder);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(inputs),           cmocka_unit_test(ids),     cmocka_unit_test(mutated),
        cmocka_unit_test(results),          cmocka_unit_test(keeping), cmocka_unit_test(full_disk),
        cmocka_unit_test(full_file_system),
    };
    return cmocka_run_group_tests(tests, make_root, remove_root);
}
