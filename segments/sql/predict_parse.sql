-- A file's rows as texts become customers, days and amounts, or a reason why not. The day is the one
-- that the text names, whatever offset follows it. Amounts are decimals, so that sums are exact.
SELECT
    line,
    customer,
    day,
    amount,
    CASE
        WHEN problem IS NOT NULL THEN problem
        WHEN customer IS NULL THEN $id_column || ' is missing.'
        WHEN at_text IS NULL THEN $date_column || ' is missing.'
        WHEN day IS NULL THEN $date_column || ': “' || at_text || '” is not a date; write it like 2026-03-01.'
        WHEN day NOT BETWEEN 0 AND 84005 THEN $date_column || ': “' || at_text || '” is out of range (1970 to 2199).'
        WHEN NOT $with_amount THEN NULL
        WHEN amount_text IS NULL THEN $amount_column || ' is missing.'
        WHEN amount IS NULL THEN $amount_column || ': “' || amount_text || '” is not an amount; write it like 12.50.'
        WHEN amount < 0 THEN $amount_column || ': ' || amount_text || ' is negative; leave refunded orders out, or subtract the refund from its order.'
    END AS reason,
    at_text,
    amount_text
FROM (
    SELECT
        *,
        CAST(
            coalesce(
                try_strptime(regexp_extract(at_text, '^(\d{8})([T ].*)?$', 1), '%Y%m%d'),
                try_strptime(
                    regexp_replace(
                        regexp_extract(at_text, '^(\d{4}([-/.])\d{1,2}[-/.]\d{1,2})([T ]+\d{1,2}:\d{2}.*)?$', 1),
                        '[/.]', '-', 'g'
                    ),
                    '%Y-%m-%d'
                )
            ) AS DATE
        ) - DATE '1970-01-01' AS day,
        try_cast(amount_text AS DECIMAL(18, 4)) AS amount
    FROM (
        SELECT
            line,
            problem,
            nullif(trim(id), '') AS customer,
            nullif(trim(happened), '') AS at_text,
            nullif(trim(amount), '') AS amount_text
        FROM file_rows
    )
)
