-- Members whose silence is longer than $silence_factor times the median gap between their orders: of those
-- who bought often enough and lately enough for it to mean something, and who are not reactivated,
-- which is asked first; the others' gaps would be sorted for nothing.
-- No median is computed: it lies below a limit when more than half of the gaps do, or when half of
-- them do and the mean of the two in the middle does. Counting costs a third of keeping every gap.
SELECT member_id
FROM (
    SELECT
        member_id,
        count(gap) AS gaps,
        count(gap) FILTER (WHERE $silence_factor * gap < silence) AS shorter,
        max(gap) FILTER (WHERE $silence_factor * gap < silence) AS below,
        min(gap) FILTER (WHERE $silence_factor * gap >= silence) AS above,
        any_value(silence) AS silence
    FROM (
        SELECT
            o.member_id,
            $as_of - f.last_at AS silence,
            o.t - lag(o.t) OVER (PARTITION BY o.member_id ORDER BY o.t) AS gap
        FROM (SELECT member_id, net_minor, status, epoch_us(ordered_at) AS t FROM orders) AS o
        INNER JOIN facts AS f
            ON f.member_id = o.member_id AND f.orders >= $silence_orders AND f.last_at >= $dormant_start
            AND (f.first_recent - f.last_before_recent > $active_us) IS NOT TRUE
        WHERE o.t < $as_of AND (o.status = 'paid' OR o.net_minor > 0)
    )
    GROUP BY member_id
)
WHERE 2 * shorter > gaps OR (2 * shorter = gaps AND $silence_factor * (below + above) < 2 * silence)
