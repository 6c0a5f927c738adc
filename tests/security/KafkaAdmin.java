import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.Scanner;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.ScramCredentialInfo;
import org.apache.kafka.clients.admin.ScramMechanism;
import org.apache.kafka.clients.admin.UserScramCredentialUpsertion;
import org.apache.kafka.common.acl.AccessControlEntry;
import org.apache.kafka.common.acl.AclBinding;
import org.apache.kafka.common.acl.AclOperation;
import org.apache.kafka.common.acl.AclPermissionType;
import org.apache.kafka.common.resource.PatternType;
import org.apache.kafka.common.resource.ResourcePattern;
import org.apache.kafka.common.resource.ResourceType;
import org.apache.kafka.common.utils.SecurityUtils;

/**
 * Does on a broker what kafka-configs.sh and kafka-acls.sh do, of which the local stack has no classes. Each line of
 * the standard input is either "scram USER PASSWORD" or the arguments of kafka-acls.sh.
 */
public class KafkaAdmin {
    public static void main(String[] arguments) throws Exception {
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", (Object) arguments[0]))) {
            Scanner lines = new Scanner(System.in, StandardCharsets.UTF_8);
            while (lines.hasNextLine()) {
                List<String> words = Arrays.asList(lines.nextLine().trim().split("\\s+"));
                if (words.get(0).equals("scram")) {
                    ScramCredentialInfo info = new ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096);
                    admin.alterUserScramCredentials(
                        List.of(new UserScramCredentialUpsertion(words.get(1), info, words.get(2)))).all().get();
                } else {
                    admin.createAcls(bindings(words)).all().get();
                }
            }
        }
    }

    static List<AclBinding> bindings(List<String> words) {
        List<String> principals = new ArrayList<>();
        List<AclOperation> operations = new ArrayList<>();
        List<String[]> resources = new ArrayList<>();
        PatternType pattern = PatternType.LITERAL;
        for (Iterator<String> word = words.iterator(); word.hasNext();) {
            switch (word.next()) {
                case "--add": break;
                case "--bootstrap-server": case "--command-config": word.next(); break;
                case "--allow-principal": principals.add(word.next()); break;
                case "--operation": operations.add(SecurityUtils.operation(word.next())); break;
                case "--topic": resources.add(new String[] {"TOPIC", word.next()}); break;
                case "--group": resources.add(new String[] {"GROUP", word.next()}); break;
                case "--resource-pattern-type": pattern = PatternType.fromString(word.next().toUpperCase()); break;
                default: throw new IllegalArgumentException(String.join(" ", words));
            }
        }
        List<AclBinding> bindings = new ArrayList<>();
        for (String[] resource : resources) {
            for (String principal : principals) {
                for (AclOperation operation : operations) {
                    bindings.add(new AclBinding(
                        new ResourcePattern(ResourceType.valueOf(resource[0]), resource[1], pattern),
                        new AccessControlEntry(principal, "*", operation, AclPermissionType.ALLOW)));
                }
            }
        }
        if (bindings.isEmpty()) throw new IllegalArgumentException(String.join(" ", words));
        return bindings;
    }
}
