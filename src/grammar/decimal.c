#include "grammar/decimal.h"

#include <stdio.h>
#include <string.h>

typedef unsigned __int128 u128;

static u128 power_of_ten(int n) {
    u128 p = 1;
    while (n-- > 0)
        p *= 10;
    return p;
}

static int count_digits(u128 d) {
    int n = 0;
    for (; d; d /= 10)
        n++;
    return n;
}

struct nb_decimal nb_decimal_normal(struct nb_decimal v) {
    if (v.digits == 0 && !v.more)
        return (struct nb_decimal){0};
    while (!v.more && v.digits % 10 == 0) {
        v.digits /= 10;
        v.exponent++;
    }
    return v;
}

struct nb_decimal nb_decimal_parse(const char *text, size_t n) {
    struct nb_decimal v = {0};
    size_t i = 0;
    bool fraction = false;
    if (i < n && text[i] == '-') {
        v.negative = true;
        i++;
    }
    int kept = 0;
    for (; i < n && text[i] != 'e' && text[i] != 'E'; i++) {
        if (text[i] == '.') {
            fraction = true;
            continue;
        }
        if (kept < NB_DECIMAL_DIGITS) {
            v.digits = v.digits * 10 + (u128)(text[i] - '0');
            kept += v.digits != 0;
            v.exponent -= fraction;
        } else {
            v.more |= text[i] != '0';
            v.exponent += !fraction;
        }
    }
    if (i < n) {
        int64_t e = 0;
        bool negative = text[++i] == '-';
        i += text[i] == '-' || text[i] == '+';
        for (; i < n; i++)
            e = e <= NB_DECIMAL_MAX_EXPONENT ? e * 10 + (text[i] - '0') : e;
        if (e > NB_DECIMAL_MAX_EXPONENT) {
            e = NB_DECIMAL_MAX_EXPONENT;
            v.more |= v.digits != 0;
        }
        v.exponent += (int32_t)(negative ? -e : e);
    }
    return nb_decimal_normal(v);
}

struct nb_decimal nb_decimal_from_int(int64_t value) {
    struct nb_decimal v = {.negative = value < 0};
    v.digits = value < 0 ? (u128)(-(value + 1)) + 1 : (u128)value;
    return nb_decimal_normal(v);
}

static int compare_magnitude(struct nb_decimal a, struct nb_decimal b) {
    bool zero_a = !a.digits && !a.more, zero_b = !b.digits && !b.more;
    if (zero_a || zero_b)
        return (int)zero_b - (int)zero_a;
    int digits_a = count_digits(a.digits), digits_b = count_digits(b.digits);
    int64_t size_a = (int64_t)digits_a + a.exponent, size_b = (int64_t)digits_b + b.exponent;
    if (size_a != size_b)
        return size_a < size_b ? -1 : 1;
    u128 x = a.digits, y = b.digits;
    if (digits_a < digits_b)
        x *= power_of_ten(digits_b - digits_a);
    else
        y *= power_of_ten(digits_a - digits_b);
    if (x != y)
        return x < y ? -1 : 1;
    return (int)a.more - (int)b.more;
}

int nb_decimal_compare(struct nb_decimal a, struct nb_decimal b) {
    if (a.negative != b.negative)
        return a.negative ? -1 : 1;
    int c = compare_magnitude(a, b);
    return a.negative ? -c : c;
}

bool nb_decimal_is_integer(struct nb_decimal v) {
    return v.exponent >= 0 || nb_decimal_normal(v).exponent >= 0;
}

/* digits * 10^zeros mod m, for m below 2^63. */
static uint64_t scaled_mod(u128 digits, int64_t zeros, uint64_t m) {
    u128 r = digits % m, p = 10 % m;
    for (; zeros > 0; zeros >>= 1) {
        if (zeros & 1)
            r = r * p % m;
        p = p * p % m;
    }
    return (uint64_t)r;
}

bool nb_decimal_is_multiple(struct nb_decimal v, struct nb_decimal of) {
    v = nb_decimal_normal(v);
    if (v.more)
        return false;
    if (!v.digits)
        return true;
    if (v.exponent < of.exponent) {
        /* v's last digit, which is not 0, is below of's last one. */
        return false;
    }
    return scaled_mod(v.digits, (int64_t)v.exponent - of.exponent, (uint64_t)of.digits) == 0;
}

bool nb_decimal_next_multiple(struct nb_decimal v, struct nb_decimal of, struct nb_decimal *out) {
    v = nb_decimal_normal(v);
    /* In units of the finer of the two exponents, if that fits. */
    int32_t unit = v.exponent < of.exponent ? v.exponent : of.exponent;
    int64_t up_v = (int64_t)v.exponent - unit, up_of = (int64_t)of.exponent - unit;
    if (count_digits(v.digits) + up_v > 37 || count_digits(of.digits) + up_of > 37)
        return false;
    u128 x = v.digits * power_of_ten((int)up_v), m = of.digits * power_of_ten((int)up_of);
    u128 r = x % m;
    bool negative = v.negative;
    if (negative) {
        x -= r; /* with `more` it is a little below -x, and -x the next if r is 0 */
    } else if (r != 0 || v.more) {
        x += m - r;
    }
    *out = nb_decimal_normal(
        (struct nb_decimal){.digits = x, .exponent = unit, .negative = negative && x});
    return true;
}

struct nb_decimal nb_decimal_add(struct nb_decimal a, struct nb_decimal b) {
    int32_t e = a.exponent < b.exponent ? a.exponent : b.exponent;
    int64_t up_a = (int64_t)a.exponent - e, up_b = (int64_t)b.exponent - e;
    if (count_digits(a.digits) + up_a > 37 || count_digits(b.digits) + up_b > 37)
        return a;
    __int128 x = (__int128)(a.digits * power_of_ten((int)up_a));
    __int128 y = (__int128)(b.digits * power_of_ten((int)up_b));
    __int128 sum = (a.negative ? -x : x) + (b.negative ? -y : y);
    return nb_decimal_normal((struct nb_decimal){
        .digits = (u128)(sum < 0 ? -sum : sum), .exponent = e, .negative = sum < 0});
}

bool nb_decimal_to_int(struct nb_decimal v, int64_t *out) {
    v = nb_decimal_normal(v);
    int digits = count_digits(v.digits);
    if (v.more || v.exponent < 0 || digits + v.exponent > 19)
        return false;
    u128 x = v.digits * power_of_ten(v.exponent);
    if (x > (u128)INT64_MAX + v.negative)
        return false;
    *out = v.negative ? (int64_t)(-(__int128)x) : (int64_t)x;
    return true;
}

size_t nb_decimal_write(struct nb_decimal v, char out[64]) {
    char digits[48];
    v = nb_decimal_normal(v);
    int n = 0;
    for (u128 d = v.digits; d || !n; d /= 10)
        digits[n++] = (char)('0' + (int)(d % 10));
    for (int i = 0; i < n / 2; i++) {
        char c = digits[i];
        digits[i] = digits[n - 1 - i];
        digits[n - 1 - i] = c;
    }
    digits[n] = 0;
    const char *sign = v.negative ? "-" : "";
    int e = v.exponent, len;
    if (e >= 0 && n + e <= 40)
        len = snprintf(out, 64, "%s%s%.*s", sign, digits, e,
                       "0000000000000000000000000000000000000000");
    else if (e < 0 && -e < n)
        len = snprintf(out, 64, "%s%.*s.%s", sign, n + e, digits, digits + n + e);
    else if (e < 0 && -e <= 40)
        len = snprintf(out, 64, "%s0.%.*s%s", sign, -e - n,
                       "0000000000000000000000000000000000000000", digits);
    else if (n == 1)
        len = snprintf(out, 64, "%s%se%d", sign, digits, e);
    else
        len = snprintf(out, 64, "%s%.1s.%se%d", sign, digits, digits + 1, e + n - 1);
    return (size_t)len;
}
